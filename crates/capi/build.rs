//! Link options of libpatch.so.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The name programs ask for at run time, also if they were linked by a path.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libpatch.so");
    // Threads may be in code of the library at any time: dlclose(3) must not unmap it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // The linker's marks of sections are not part of the interface.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,start-stop-visibility=hidden");
}
