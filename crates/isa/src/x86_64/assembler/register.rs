//! Register names.

use std::collections::HashMap;
use std::sync::OnceLock;

use iced_x86::Register;

/// The register called `name` (without `%`), in any case.
pub(super) fn register(name: &str) -> Option<Register> {
    static NAMES: OnceLock<HashMap<String, Register>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let mut names = HashMap::new();
        for register in Register::values().filter(|register| *register != Register::None) {
            names.insert(format!("{register:?}").to_ascii_lowercase(), register);
        }
        // The low bytes of r8 to r15 have two spellings.
        for number in 8..16 {
            names.insert(format!("r{number}b"), Register::R8L + (number - 8));
            names.insert(format!("r{number}l"), Register::R8L + (number - 8));
        }
        names.insert("st".to_owned(), Register::ST0);
        names.retain(|name, _| !name.starts_with("dontuse"));
        names
    });
    names.get(name).or_else(|| names.get(&name.to_ascii_lowercase())).copied()
}

/// The name of a register, in lower case.
pub(super) fn name(register: Register) -> String {
    match register {
        Register::R8L
        | Register::R9L
        | Register::R10L
        | Register::R11L
        | Register::R12L
        | Register::R13L
        | Register::R14L
        | Register::R15L => format!("r{}b", register.number()),
        _ => format!("{register:?}").to_ascii_lowercase(),
    }
}

/// Whether it can be a segment override.
pub(super) fn is_segment(register: Register) -> bool {
    register.is_segment_register()
}
