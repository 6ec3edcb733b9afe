//! Callers, as people and tools read them.

use incise::trace::Caller;

/// `function+0x1f (module)`: where it goes on.
pub(super) fn place(caller: &Caller) -> String {
    let Caller { addr, module, function, offset } = caller;
    match (&**function, &**module) {
        ("", "") => addr.to_string(),
        ("", module) => format!("{module}+{offset:#x}"),
        (function, module) => format!("{function}+{offset:#x} ({module})"),
    }
}

/// The function; the module where none is known, so that its places are one.
pub(super) fn function(caller: &Caller) -> String {
    match (&*caller.function, &*caller.module) {
        ("", "") => "[unknown]".to_owned(),
        ("", module) => format!("[{module}]"),
        (function, _) => function.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use incise::Addr;

    use super::*;

    #[test]
    fn a_place_is_told_by_what_is_known() {
        let caller = |module: &str, function: &str| Caller {
            addr: Addr(0x401234),
            module: module.into(),
            function: function.into(),
            offset: 0x34,
        };
        let told = |caller: Caller| (place(&caller), function(&caller));
        assert_eq!(told(caller("a.out", "main")), ("main+0x34 (a.out)".into(), "main".into()));
        assert_eq!(told(caller("a.out", "")), ("a.out+0x34".into(), "[a.out]".into()));
        assert_eq!(told(caller("", "")), ("0x401234".into(), "[unknown]".into()));
    }
}
