//! The incise command; everything is in the library.

fn main() -> std::process::ExitCode {
    incise_cli::main()
}
