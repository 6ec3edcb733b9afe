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
fn fault_landings_come_last_and_ask_for_more_signals() {
    let trap = Landing { trap: Addr(0x7fff_ffff_ffff), landing: Addr(1) };
    let fault = Landing::fault(Addr(0x1000), Addr(2));
    assert!(trap < fault && fault.is_fault() && !trap.is_fault());
    assert_eq!((fault.address(), trap.address()), (Addr(0x1000), trap.trap));
    assert_eq!(signals_for(&[trap]).collect::<Vec<_>>(), TRAP_SIGNALS);
    assert_eq!(signals_for(&[trap, fault]).count(), TRAP_SIGNALS.len() + FAULT_SIGNALS.len());
    const { assert!(TrapHeader::SIZE <= 3072, "it shares a page") };
}
