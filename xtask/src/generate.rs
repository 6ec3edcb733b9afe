//! Manual pages and shell completions, made from the definition of the command line.

use std::io::{self, Write};

use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// A file to install.
pub struct File {
    /// Its name.
    pub name: String,
    pub contents: Vec<u8>,
}

/// The manual pages of the command and its subcommands, section 1.
pub fn manual_pages() -> Vec<File> {
    let mut command = incise_cli::args::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(command, &mut pages);
    pages
}

fn add_pages(command: Command, pages: &mut Vec<File>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).replace(' ', "-");
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        add_pages(subcommand.clone(), pages);
    }
    // Writing to memory does not fail.
    if let Ok(contents) = page(command, &name) {
        pages.push(File { name: format!("{name}.1"), contents });
    }
}

fn page(command: Command, name: &str) -> io::Result<Vec<u8>> {
    let notes = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let mut page = Vec::new();
    let versioned = command.get_version().is_some();
    let has_subcommands = command.has_subcommands();
    let source = concat!("incise ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).title(name).source(source).manual("Incise");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_subcommands {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = notes {
        // As it is: it has columns.
        writeln!(page, ".SH NOTES\n.nf\n{}\n.fi", escaped(&notes))?;
    }
    if versioned {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// Text in which nothing means anything to roff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let line = |line: &str| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Completions, each with the folder below `share` where its shell looks.
pub fn completions() -> Vec<(&'static str, File)> {
    let shells = [
        (Shell::Bash, "bash-completion/completions", "incise"),
        (Shell::Zsh, "zsh/site-functions", "_incise"),
        (Shell::Fish, "fish/vendor_completions.d", "incise.fish"),
    ];
    shells
        .into_iter()
        .map(|(shell, folder, name)| {
            let mut contents = Vec::new();
            generate(shell, &mut incise_cli::args::command(), "incise", &mut contents);
            (folder, File { name: name.to_owned(), contents })
        })
        .collect()
}
