//! What a new configuration changes while the agent runs. Pure.

use proto::config::Config;

/// The keys and sections that differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// They count from now on.
    pub taken: Vec<&'static str>,
    /// They count when the agent is started anew.
    pub later: Vec<&'static str>,
}

/// Compares what was read at the start, or at the last reload, with what is in the file now.
pub fn compare(old: &Config, new: &Config) -> Changes {
    let stream = |config: &Config| {
        let mut stream = config.stream.clone();
        stream.flush_interval = Default::default();
        stream
    };
    let taken = [
        ("stream.flush_interval", old.stream.flush_interval != new.stream.flush_interval),
        ("schedule", old.schedule != new.schedule),
        ("notify", old.notify != new.notify),
        ("log", old.log != new.log),
        // Those of the jobs: each is a process that reads the file itself.
        ("retention", old.retention != new.retention),
        ("backup", old.backup != new.backup),
        ("drill", old.drill != new.drill),
        ("dump", old.dump != new.dump),
        ("checklist", old.checklist != new.checklist),
        ("upkeep", old.upkeep != new.upkeep),
    ];
    let later = [
        ("repository", old.repository != new.repository),
        ("cluster", old.cluster != new.cluster),
        ("postgres", old.postgres != new.postgres),
        ("socket", old.socket != new.socket),
        ("stream", stream(old) != stream(new)),
        ("storage", old.storage != new.storage),
        ("compression", old.compression != new.compression),
        ("encryption", old.encryption != new.encryption),
        ("health", old.health != new.health),
        ("http", old.http != new.http),
    ];
    let names = |keys: &[(&'static str, bool)]| keys.iter().filter(|key| key.1).map(|key| key.0).collect();
    Changes { taken: names(&taken), later: names(&later) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_where_it_counts() {
        let parse = |text: &str| Config::parse(text).unwrap();
        let old =
            parse("repository = \"file:///a\"\n[stream]\nflush_interval = \"1s\"\n[retention]\nfull = 1");
        assert_eq!(compare(&old, &old), Changes::default());
        let new = parse(
            "repository = \"file:///b\"\n[stream]\nflush_interval = \"2s\"\nslot = \"other\"\n[schedule]\nfull = \"0 2 * * *\"\n\
             [http]\nlisten = \"127.0.0.1:1\"",
        );
        let changes = compare(&old, &new);
        assert_eq!(changes.taken, ["stream.flush_interval", "schedule", "retention"]);
        assert_eq!(changes.later, ["repository", "stream", "http"]);
        let faster =
            parse("repository = \"file:///a\"\n[stream]\nflush_interval = \"2s\"\n[retention]\nfull = 1");
        assert_eq!(compare(&old, &faster), Changes { taken: vec!["stream.flush_interval"], later: vec![] });
    }
}
