//! `cmira completions` and `cmira man`: what a shell and a manual need to know of the commands.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::error::{Error, Result};
use crate::files;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cmira completions bash > ~/.local/share/bash-completion/completions/cmira
  cmira completions zsh > ~/.zfunc/_cmira
  cmira completions fish > ~/.config/fish/completions/cmira.fish")]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    shell: Shell,
}

pub fn completions(args: &Completions, mut command: clap::Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "cmira", &mut text);
    std::io::stdout().write_all(&text).map_err(|error| Error::unexpected(error).at("standard output"))
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cmira man ~/.local/share/man/man1 && man cmira-audit")]
pub struct Man {
    /// Where the pages go, one a command.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn man(args: &Man, command: clap::Command) -> Result<()> {
    let count = write_pages(&args.folder, command)?;
    println!("{}: {count} pages", args.folder.display());
    Ok(())
}

/// Writes a page for every command, and gives their number.
pub fn write_pages(folder: &Path, command: clap::Command) -> Result<usize> {
    // With all that clap adds to commands when they are run.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![("cmira".to_string(), command.clone())];
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages.push((format!("cmira-{}", inner.get_name()), inner.clone()));
        for innermost in inner.get_subcommands() {
            pages.push((format!("cmira-{}-{}", inner.get_name(), innermost.get_name()), innermost.clone()));
        }
    }
    for (name, page) in &pages {
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).title(name).render(&mut text).map_err(Error::unexpected)?;
        files::write(&folder.join(format!("{name}.1")), &text)?;
    }
    Ok(pages.len())
}
