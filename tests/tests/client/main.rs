//! The client of PostgreSQL's protocol against real servers of every version.

mod backups;
mod certificates;
mod channel;
mod encryption;
mod middle;
mod passwords;
mod scene;
mod sessions;
mod timelines;

/// For each test, a module of its name with one run for each version of PostgreSQL.
macro_rules! every_version {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            crate::every_version!(@ $test: pg13 13, pg14 14, pg15 15, pg16 16, pg17 17, pg18 18);
        })*
    };
    (@ $test:ident: $($name:ident $major:literal),*) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            match harness::Installation::or_skip($major) {
                Some(installation) => super::$test(&installation),
                None => Ok(()),
            }
        })*
    };
}
use every_version;
