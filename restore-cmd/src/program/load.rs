//! The configuration: the file that applies, overridden by flags.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::config::Config;

use super::{GlobalArgs, failure};

/// The configuration that `args`, the environment and the file's usual place give; flags win.
///
/// A file that was asked for must be there; the one in the usual place need not.
///
/// # Errors
/// The file cannot be read or is wrong, or a flag is. The message names file, line and key.
pub fn load(args: &GlobalArgs) -> Result<Config> {
    let mut config = match config_file(args) {
        Some(path) => read(&path)?,
        None => Config::default(),
    };
    if let Some(repository) = &args.repository {
        config.repository = Some(repository.clone());
    }
    if let Some(cluster) = &args.cluster {
        config.cluster = Some(cluster.clone());
    }
    if let Some(postgres) = &args.postgres {
        config.postgres = Some(postgres.clone());
    }
    Ok(config)
}

/// Which file is read: the flag's, the environment's, or the usual one if it is there.
pub fn config_file(args: &GlobalArgs) -> Option<PathBuf> {
    proto::config::file(args.config.clone())
}

fn read(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration file {}: {error}", path.display());
        let hint = match error.kind() {
            ErrorKind::NotFound => {
                "name the right file with --config, or give --repository and --cluster instead"
            }
            ErrorKind::PermissionDenied => "let the user that runs this program read it: postgres, as a rule",
            _ => "it must be a text file in UTF-8",
        };
        failure(message, hint)
    })?;
    Config::parse(&text).with_context(|| format!("the configuration file {} is wrong", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &Path) -> GlobalArgs {
        GlobalArgs { config: Some(config.to_owned()), ..GlobalArgs::default() }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = load(&args(Path::new("/nonexistent/walkeep.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/walkeep.toml"), "{error}");
    }

    #[test]
    fn flags_win() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "repository = \"file:///a\"\ncluster = \"one\"\n").unwrap();
        let flags = GlobalArgs { cluster: Some("two".parse().unwrap()), ..args(file.path()) };
        let config = load(&flags).unwrap();
        assert_eq!(config.repository.as_deref(), Some("file:///a"));
        assert_eq!(config.cluster.map(|c| c.to_string()).as_deref(), Some("two"));
    }

    #[test]
    fn a_wrong_key_is_told_with_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "repositry = \"file:///a\"\n").unwrap();
        let error = load(&args(file.path())).unwrap_err();
        assert!(format!("{error:#}").contains("repositry"), "{error:#}");
    }
}
