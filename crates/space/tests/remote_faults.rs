//! Lets every step of a change fail in turn: each failure leaves the target as it was, or able to be
//! restored.

mod remote_support;

use std::time::Duration;

use incise_isa::Addr;
use incise_space::remote::{Left, RemoteSpace, Tracer};
use incise_space::{AddressSpace, Bytes, Edit, Landing, SpaceError, faults};
use remote_support::*;

/// Forty pages of functions, and one that lies across two pages.
const PLACES: &str = r#"
extern char many[], crossing[];
__asm__(".text\n.balign 4096\n.globl many\nmany:\n.rept 40\n  mov $1, %eax\n  ret\n  .balign 4096\n.endr\n"
        ".skip 4093\n.globl crossing\ncrossing:\n  mov $1, %eax\n  ret\n");
int main(void) {
    ready(); printf("%p\n", (void *)many); fflush(stdout);
    while (line()) {
        int sum = answer() + ((int (*)(void))crossing)();
        for (int i = 0; i < 40; i++) sum += ((int (*)(void))(many + 4096 * i))();
        printf("%d\n", sum); fflush(stdout);
    }
    return 7;
}
"#;

const PAGES: u64 = 40;

struct Subject {
    space: RemoteSpace,
    answer: Addr,
    many: Addr,
}

impl Subject {
    fn text(&self) -> Vec<u8> {
        let start = self.many.align_down(PAGE).min(self.answer.align_down(PAGE));
        let end = self.many + (PAGES + 2) * PAGE;
        let mut text = vec![0; end.offset_from(start) as usize];
        self.space.read(start, &mut text).expect("mapped");
        text
    }

    /// Installs and takes out again, up to the first error. A change that fails has changed nothing.
    fn change(&mut self, failing: &mut dyn FnMut(bool)) -> Result<(), SpaceError> {
        let code = self.answer.align_down(PAGE) + (1 << 28);
        let crossing = self.many + PAGES * PAGE + 4093;
        let mut body = vec![0xB8, 2, 0, 0, 0, 0xE9];
        body.extend(((self.answer + 5).offset_from(code + 10) as i32).to_le_bytes());
        let mut edits: Vec<Edit> = (0..PAGES).map(|page| edit(self.many + page * PAGE, 0xB8, 2)).collect();
        edits.push(edit(crossing, 0xB8, 2));
        edits.push(edit(self.answer, 0xCC, 1));
        edits.sort_by_key(|edit| edit.at);
        let back: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
        failing(true);
        self.space.map_code(code, PAGE)?;
        drop(self.space.map_data(code + PAGE, PAGE)?);
        self.space.write_code(&[(code, &body)])?;
        let at_answer = Landing { trap: self.answer, landing: code };
        let mut landings = [at_answer, Landing { trap: crossing, landing: code + 64 }];
        landings.sort();
        self.space.publish_landings(&landings)?;
        for edits in [edits, back] {
            failing(false);
            let before = self.text();
            failing(true);
            let applied = self.space.apply(&edits, &|_| None);
            failing(false);
            if let Err(error) = applied {
                assert!(self.text() == before, "a failed change has changed something: {error}");
                return Err(error);
            }
            failing(true);
        }
        self.space.unmap(code + PAGE, PAGE)?;
        // A stack that cannot be read leaves things behind, for the next time.
        self.space.remove()?;
        failing(false);
        Ok(())
    }
}

fn edit(at: Addr, opcode: u8, value: u8) -> Edit {
    let (old, new) = ([0xB8, 1, 0, 0, 0], [opcode, value, 0, 0, 0]);
    Edit { at, old: Bytes::new(&old), new: Bytes::new(&new), heads: 1 }
}

#[test]
fn every_step_may_fail() {
    let mut program = Program::start(PLACES, &[]);
    let many = program.read_line();
    let many = Addr(u64::from_str_radix(many.trim_start_matches("0x"), 16).expect("an address"));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut subject = Subject { space: tracer.space(pid).expect("traced"), answer: program.answer, many };
    let text = subject.text();
    let mut failures = 0;
    for errno in [libc::ENOMEM, libc::EPERM] {
        for n in 0.. {
            let mut next = n;
            // Only what is changed counts, not the checks between.
            let mut happened = false;
            let mut armed = false;
            let result = subject.change(&mut |on| {
                if on && !armed && !happened {
                    faults::fail_nth(next, errno);
                    armed = true;
                } else if !on && armed {
                    let (made, now) = faults::disarm();
                    happened = now;
                    next = next.saturating_sub(made);
                    armed = false;
                }
            });
            if armed {
                happened |= faults::disarm().1;
            }
            if let Err(error) = &result {
                assert!(happened, "step {n}: {error}");
                failures += 1;
            }
            assert_eq!(subject.space.remove().expect("removed"), Left::default(), "step {n}");
            assert!(subject.text() == text, "step {n}: {result:?}");
            for mapping in subject.space.mappings().expect("readable").iter() {
                let ours =
                    mapping.name.is_empty() && mapping.permissions.execute && !mapping.permissions.write;
                let text = mapping.range.start < many && many < mapping.range.end
                    || (many.0..many.0 + (PAGES + 2) * PAGE).contains(&mapping.range.start.0);
                assert!(!ours || text, "step {n} left {mapping:?}");
            }
            if n % 20 == 0 {
                assert_eq!(program.ask_traced(&mut tracer), "42", "step {n}");
            }
            if !happened {
                break;
            }
        }
    }
    assert!(failures > 50, "{failures}");
    pump(&mut tracer, Duration::from_millis(5));
    tracer.detach(pid).expect("traced");
    assert_eq!(program.ask(), "42");
    assert_eq!(program.finish().code(), Some(7));
}
