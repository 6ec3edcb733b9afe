//! The oracle itself: relocators with a known fault, each of which it must see.

use std::time::Duration;

use incise_oracle::{Incise, Options, Refusal, Relocator, Report, Verbatim, run};

type Resolve<'a> = &'a dyn Fn(u64) -> u64;

/// The right code, with bytes before and behind it.
struct Around(&'static [u8], &'static [u8]);

impl Relocator for Around {
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        to: u64,
        resolve: Resolve<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        out.extend_from_slice(self.0);
        Incise.relocate(code, at, to + self.0.len() as u64, resolve, out)?;
        out.extend_from_slice(self.1);
        Ok(())
    }
}

/// Any function as a relocator.
struct By<F>(F);

impl<F: Fn(&[u8], u64, u64, Resolve<'_>, &mut Vec<u8>) -> Result<(), Refusal> + Sync> Relocator for By<F> {
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        to: u64,
        resolve: Resolve<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        self.0(code, at, to, resolve, out)
    }
}

fn judge(relocator: &dyn Relocator, form: &str) -> Report {
    let options = Options { states: 3, filter: form.to_owned(), ..Options::default() };
    run(relocator, &options).expect("native runs are possible")
}

/// The number of findings in which some line begins with `what`.
fn count(report: &Report, what: &str) -> usize {
    let says = |lines: &Vec<String>| lines.iter().any(|line| line.starts_with(what));
    report.findings.iter().filter(|finding| says(&finding.differences)).count()
}

#[track_caller]
fn sees(relocator: &dyn Relocator, form: &str, what: &str) {
    let report = judge(relocator, form);
    let seen = count(&report, what);
    let total: u64 = report.equal_pairs.values().sum::<u64>() + report.findings.len() as u64;
    assert!(seen > 20, "{what}: seen {seen} times in {total} pairs of {form}");
    assert!(!report.clean());
}

#[test]
fn the_right_code_is_not_blamed() {
    assert!(judge(&Incise, "Add_rm64_r64").clean());
    assert!(judge(&Around(&[], &[0x90]), "Lea_r64_m").findings.iter().all(|finding| finding.copy.is_empty()));
}

#[test]
fn a_rip_relative_operand_copied_verbatim() {
    sees(&Verbatim, "Lea_r64_m", "register");
    sees(&Verbatim, "Mov_rm64_r64", "fault");
}

#[test]
fn a_clobbered_register() {
    sees(&Around(&[], &[0x49, 0xff, 0xc7]), "Movaps_xmm_xmmm128", "register r15");
}

#[test]
fn clobbered_flags() {
    // cmc, std
    sees(&Around(&[], &[0xf5]), "Mov_r64_rm64", "flags");
    sees(&Around(&[0xfd], &[]), "Mov_r64_rm64", "flags");
}

#[test]
fn a_write_into_the_red_zone() {
    // push rax; lea rsp,[rsp+8]
    let push = [0x50, 0x48, 0x8d, 0x64, 0x24, 0x08];
    sees(&Around(Box::leak(Box::new(push)), &[]), "Mov_r32_rm32", "red-zone");
    // mov byte [rsp-128],0x5a: the last byte that is kept
    sees(&Around(&[0xc6, 0x44, 0x24, 0x80, 0x5a], &[]), "Mov_r32_rm32", "red-zone");
}

#[test]
fn a_write_below_the_red_zone_is_nobodys_business() {
    // mov byte [rsp-129],0x5a
    let below = Around(&[0xc6, 0x84, 0x24, 0x7f, 0xff, 0xff, 0xff, 0x5a], &[]);
    let report = judge(&below, "Mov_r32_rm32");
    assert_eq!(count(&report, "red-zone") + count(&report, "stack"), 0);
}

#[test]
fn a_write_above_the_stack_pointer() {
    sees(&Around(&[0xc6, 0x44, 0x24, 0x20, 0x5a], &[]), "Mov_r32_rm32", "stack");
}

#[test]
fn a_call_that_pushes_where_it_is_now() {
    let call = By(|code: &[u8], at: u64, to: u64, resolve: Resolve<'_>, out: &mut Vec<u8>| {
        let start = out.len();
        out.push(0xe8);
        let displacement = i32::from_le_bytes(code[1..5].try_into().unwrap_or_default());
        let target = resolve((at + 5).wrapping_add_signed(i64::from(displacement)));
        match i32::try_from(target.wrapping_sub(to + 5) as i64) {
            Ok(near) if code[0] == 0xe8 => {
                out.extend_from_slice(&near.to_le_bytes());
                Ok(())
            }
            _ => {
                out.truncate(start);
                Err(Refusal::Refused("Far".to_owned()))
            }
        }
    });
    sees(&call, "Call_rel32_64", "stack");
}

#[test]
fn a_syscall_that_leaves_the_copys_address() {
    let report = judge(&Verbatim, "Syscall");
    assert!(count(&report, "register rcx") > 5);
}

#[test]
fn vectors_masks_and_control_words() {
    // pxor xmm7,xmm7; vzeroupper
    sees(&Around(&[], &[0x66, 0x0f, 0xef, 0xff]), "Mov_r64_rm64", "vector 7");
    if is_x86_feature_detected!("avx") {
        sees(&Around(&[], &[0xc5, 0xf8, 0x77]), "Mov_r64_rm64", "vector");
    } else {
        println!("skipped: vzeroupper, for this processor has no AVX");
    }
    if is_x86_feature_detected!("avx512bw") {
        // kxorq k5,k5,k5; vpxord zmm20,zmm20,zmm20
        sees(&Around(&[], &[0xc4, 0xe1, 0xd4, 0x47, 0xed]), "Mov_r64_rm64", "opmask 5");
        sees(&Around(&[], &[0x62, 0xa1, 0x5d, 0x40, 0xef, 0xe4]), "Mov_r64_rm64", "vector 20");
    } else {
        println!("skipped: masks and zmm16-31, for this processor has no AVX-512");
    }
    // fninit; emms
    sees(&Around(&[], &[0xdb, 0xe3]), "Mov_r64_rm64", "x87");
    sees(&Around(&[], &[0x0f, 0x77]), "Mov_r64_rm64", "x87 10");
    // divss xmm9,xmm9: sets exception flags
    sees(&Around(&[], &[0xf3, 0x45, 0x0f, 0x5e, 0xc9]), "Mov_r64_rm64", "mxcsr");
}

#[test]
fn segment_registers() {
    // mov eax,0x2b; mov es,eax
    sees(&Around(&[], &[0xb8, 0x2b, 0, 0, 0, 0x8e, 0xc0]), "Cmp_rm64_r64", "selector 1");
}

#[test]
fn a_store_to_data() {
    // mov byte [abs 0x10001000],0x77
    sees(
        &Around(&[], &[0xc6, 0x04, 0x25, 0x00, 0x10, 0x00, 0x10, 0x77]),
        "Mov_r64_rm64",
        "data at 0x10001000",
    );
}

#[test]
fn a_branch_to_the_wrong_place() {
    let off_by_one = By(|code: &[u8], at, to, resolve: Resolve<'_>, out: &mut Vec<u8>| {
        Incise.relocate(code, at, to, &|target| resolve(target) + 1, out)
    });
    sees(&off_by_one, "Jne_rel32_64", "where");
    sees(&off_by_one, "Jmp_rel8_64", "where");
}

#[test]
fn a_moved_branch_target_that_is_not_followed() {
    let deaf = By(|code: &[u8], at, to, _: Resolve<'_>, out: &mut Vec<u8>| {
        Incise.relocate(code, at, to, &|target| target, out)
    });
    let report = judge(&deaf, "Jmp_rel32_64");
    assert!(count(&report, "where") > 5);
}

#[test]
fn a_swallowed_fault_and_an_invented_one() {
    let nop = By(|_: &[u8], _, _, _: Resolve<'_>, out: &mut Vec<u8>| {
        out.push(0x90);
        Ok(())
    });
    sees(&nop, "Cli", "fault");
    // ud2 in place of a division: another signal
    let ud2 = By(|_: &[u8], _, _, _: Resolve<'_>, out: &mut Vec<u8>| {
        out.extend_from_slice(&[0x0f, 0x0b]);
        Ok(())
    });
    sees(&ud2, "Div_rm64", "fault");
}

#[test]
fn a_fault_at_another_address() {
    // lea rsi,[rsi+1] before, lea rsi,[rsi-1] behind: the fault address is one too high
    let shifted = Around(&[0x48, 0x8d, 0x76, 0x01], &[0x48, 0x8d, 0x76, 0xff]);
    let report = judge(&shifted, "Lodsb_AL_m8");
    assert!(count(&report, "fault-address") + count(&report, "register") > 10);
}

#[test]
fn code_that_kills_the_process_or_never_ends() {
    // mov eax,231; xor edi,edi; syscall: leaves, with success
    let leave = Around(&[0xb8, 0xe7, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05], &[]);
    let report = judge(&leave, "Cmc");
    assert!(count(&report, "the process left") >= 8, "{report}");
    let forever = By(|_: &[u8], _, _, _: Resolve<'_>, out: &mut Vec<u8>| {
        out.extend_from_slice(&[0xeb, 0xfe]);
        Ok(())
    });
    let patience = Duration::from_millis(300);
    let options = Options { filter: "Clc".to_owned(), patience, ..Options::default() };
    let report = run(&forever, &options).expect("native runs are possible");
    assert!(count(&report, "ran without an end") >= 8, "{report}");
}

#[test]
fn breaches_of_the_contract_that_need_no_run() {
    let panics = By(|_: &[u8], _, _, _: Resolve<'_>, _: &mut Vec<u8>| panic!("on purpose"));
    assert!(count(&judge(&panics, "Stc"), "panicked") > 0);
    let leaves = By(|_: &[u8], _, _, _: Resolve<'_>, out: &mut Vec<u8>| {
        out.push(0x90);
        Err(Refusal::Refused("Why".to_owned()))
    });
    assert!(count(&judge(&leaves, "Stc"), "refused, but left bytes behind") > 0);
    let sizes = By(|code: &[u8], at, to: u64, resolve: Resolve<'_>, out: &mut Vec<u8>| {
        let result = Incise.relocate(code, at, to, resolve, out);
        if to & 16 != 0 {
            out.push(0x90);
        }
        result
    });
    assert!(count(&judge(&sizes, "Jmp_rel32_64"), "length") > 0);
    assert!(count(&judge(&Around(&[], &[0x90]), "Stc"), "position-independent bytes") > 0);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let counts = |seed| {
        let options = Options { seed, filter: "Imul".to_owned(), states: 2, ..Options::default() };
        let report = run(&Incise, &options).expect("native runs are possible");
        (report.equal_pairs, report.registers_skipped, report.run_equal)
    };
    assert_eq!(counts(7), counts(7));
    assert_ne!(counts(7), counts(8));
}
