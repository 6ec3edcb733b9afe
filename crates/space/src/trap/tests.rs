use super::*;

#[test]
fn the_image_begins_with_the_header_and_has_its_parts_where_the_constants_say() {
    let image = handler_image(Addr(0x1234_5678_9abc_def0));
    assert_eq!(&image[HEADER_LITERAL..8], 0x1234_5678_9abc_def0u64.to_le_bytes());
    assert_eq!(&image[RESTORER..RESTORER + 9], b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05");
    assert_eq!(&image[HANDLER..HANDLER + 4], b"\xf3\x0f\x1e\xfa");
    assert!(image.len() < 512, "{}", image.len());
}

#[test]
fn a_table_counts_its_landings_first() {
    let landings = [(1, 2), (0x10, 0x20)].map(|(t, l)| Landing { trap: Addr(t), landing: Addr(l) });
    let words: Vec<u64> = table_bytes(&landings)
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
        .collect();
    assert_eq!(words, [2, 0, 1, 2, 0x10, 0x20]);
}

#[test]
fn the_header_lies_in_memory_as_its_offsets_say() {
    let action = KernelSigaction { handler: 7, flags: 8, restorer: 9, mask: 0x100 };
    let header = TrapHeader {
        table: 5,
        active: 6,
        previous: [Previous::default(), Previous::new(libc::SIGILL, action)],
        bias: 0x70,
    };
    let bytes = header.to_bytes();
    assert_eq!(bytes.len(), TrapHeader::SIZE);
    assert_eq!(bytes[TrapHeader::TABLE], 5);
    assert_eq!(bytes[TrapHeader::ACTIVE], 6);
    assert_eq!(bytes[TrapHeader::BIAS], 0x70);
    let previous = &bytes[TrapHeader::previous_offset(1)..];
    assert_eq!([previous[0], previous[8], previous[16], previous[25], previous[32]], [7, 8, 9, 1, 8]);
}
