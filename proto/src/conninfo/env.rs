//! What a connection string is completed from: variables, files, the system's user.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The outside world, as far as a connection string looks at it.
pub trait Env {
    /// An environment variable, if it is set and is text.
    fn var(&self, name: &str) -> Option<String>;
    /// The home directory.
    fn home(&self) -> Option<PathBuf>;
    /// The name of the system's user that runs this process.
    fn user(&self) -> Option<String>;
    /// Whether there is a file.
    fn exists(&self, path: &Path) -> bool;
    /// A file's content.
    fn read(&self, path: &Path) -> Result<String, FileError>;
    /// The content of a file that only its owner may read.
    fn read_secret(&self, path: &Path) -> Result<Zeroizing<String>, FileError>;
}

/// Why a file was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is proven absent.
    #[error("it does not exist")]
    Absent,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Absent,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// This process's environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn home(&self) -> Option<PathBuf> {
        std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
    }

    fn user(&self) -> Option<String> {
        whoami::username().ok()
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn read(&self, path: &Path) -> Result<String, FileError> {
        Ok(std::fs::read_to_string(path)?)
    }

    fn read_secret(&self, path: &Path) -> Result<Zeroizing<String>, FileError> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(FileError::Failed("it is not a plain file".to_owned()));
        }
        if metadata.mode() & 0o077 != 0 {
            let why = "other users may read it; give it the mode 0600";
            return Err(FileError::Failed(why.to_owned()));
        }
        Ok(Zeroizing::new(std::fs::read_to_string(path)?))
    }
}
