//! The functions of real files, compared with what `nm` and `readelf` say.

mod support;

use std::collections::BTreeSet;

use incise_image::{FunctionKind, Image};
use support::{image, libc_path, output};

/// Names and addresses of functions as `readelf` lists them: typed symbols that are defined.
fn readelf_functions(path: &str) -> Option<BTreeSet<(u64, String)>> {
    let text = output("readelf", &["-sW", path])?;
    let functions = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, value, _, kind, _, _, section, name, ..] = fields.as_slice() else { return None };
        let wanted = matches!(kind, "FUNC" | "IFUNC") && section != "UND" && section != "ABS";
        let name = name.split('@').next().unwrap_or(name);
        wanted.then(|| Some((u64::from_str_radix(value, 16).ok()?, name.to_owned())))?
    });
    Some(functions.collect())
}

fn own_functions(image: &Image) -> BTreeSet<(u64, String)> {
    let functions = image.functions().iter();
    functions.flat_map(|f| image.names(f).map(|name| (f.addr.0, name.text.to_owned()))).collect()
}

#[test]
fn every_function_symbol_is_found() {
    let me = std::env::current_exe().expect("path of this test");
    let libc = libc_path();
    for path in [libc.as_str(), "/usr/bin/python3", "/bin/bash", "/usr/bin/gdb", &me.to_string_lossy()] {
        if !std::path::Path::new(path).exists() {
            support::skip(&format!("{path} does not exist"));
            continue;
        }
        let Some(expected) = readelf_functions(path) else { return };
        let image = image(path);
        let own = own_functions(&image);
        let missing: Vec<_> = expected.difference(&own).collect();
        let dropped = image.dropped();
        assert!(missing.len() <= dropped.outside_text + dropped.linkage_stubs, "{path}: {missing:?}");
        assert!(
            missing.len() * 1000 <= expected.len(),
            "{path}: {} of {}: {missing:?}",
            missing.len(),
            expected.len()
        );
        assert!(!expected.is_empty(), "{path}");
        println!("{path}: {} names, {} functions, {dropped:?}", own.len(), image.functions().len());
    }
}

#[test]
fn aliases_are_names_of_one_function() {
    let image = image(libc_path());
    let malloc = image.functions().iter().find(|f| image.name(f) == "malloc").expect("malloc");
    let names: Vec<&str> = image.names(malloc).map(|n| n.text).collect();
    assert_eq!(names, ["malloc", "__libc_malloc"]);
    assert!(malloc.exported && malloc.size > 0);
    assert_eq!(image.function_at(malloc.addr + 1).map(|f| f.addr), Some(malloc.addr));
    let strlen = image.functions().iter().find(|f| image.name(f) == "strlen").expect("strlen");
    assert_eq!(strlen.kind, FunctionKind::Ifunc);
}

#[test]
fn versions_are_kept() {
    let image = image(libc_path());
    let versions: Vec<(bool, Option<&str>)> = image
        .functions()
        .iter()
        .flat_map(|f| image.names(f))
        .filter(|name| name.text == "memcpy")
        .map(|name| (name.default_version, name.version))
        .collect();
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert!(versions.contains(&(true, Some("GLIBC_2.14"))), "{versions:?}");
    assert!(versions.contains(&(false, Some("GLIBC_2.2.5"))), "{versions:?}");
}
