//! Manual pages and completions, made of the command line itself, so that they tell what is there.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

/// The arguments of the verb `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// The arguments of the verb `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory, which must be there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Prints the completions of a program: to be read by the shell, or put where it looks for them.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(mut command: Command, args: &CompletionsArgs) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    std::io::stdout().lock().write_all(&text).context("cannot write to standard output")
}

/// Writes the manual pages of a program, and of each of its verbs, into a directory.
///
/// # Errors
/// One of them cannot be written.
pub fn man(mut command: Command, args: &ManArgs) -> Result<()> {
    command.build();
    for (name, page) in pages(&command)? {
        write(&args.directory.join(format!("{name}.1")), &page)?;
    }
    Ok(())
}

fn write(path: &Path, page: &[u8]) -> Result<()> {
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// The pages by their names, such as `walkeep-run`: those that a built command gives its verbs.
fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    // clap makes `help` itself: it says what the pages say.
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    std::iter::once(command)
        .chain(verbs)
        .map(|command| {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
            let described = command.clone().version(env!("CARGO_PKG_VERSION"));
            let mut page = Vec::new();
            clap_mangen::Man::new(described).render(&mut page).context("cannot make a manual page")?;
            Ok((name, page))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn each_verb_has_a_page_with_its_flags() {
        let verb =
            Command::new("keep").about("Keep a backup").arg(Arg::new("until").long("until").help("How long"));
        let mut command = Command::new("program")
            .version("1")
            .subcommand(verb)
            .subcommand(Command::new("secret").hide(true));
        command.build();
        let pages = pages(&command).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["program", "program-keep"]);
        let page = String::from_utf8(pages[1].1.clone()).unwrap();
        assert!(page.contains("until") && page.contains("How long"), "{page}");
    }
}
