//! A repository that is worth an attack: encrypted, signed, with two backups and WAL behind them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Agent, Holder, Installation, Mark, Output, Postgres, Repo, World, workload};
use serde_json::Value;

/// What nobody may find in the bucket.
pub(crate) const SECRET: &str = "the-recipe-of-the-sauce";

pub(crate) struct Scene {
    pub(crate) installation: Installation,
    pub(crate) repo: Repo,
    /// As the database's host is configured.
    pub(crate) host: Agent,
    /// Where restores are run.
    pub(crate) vault: Agent,
    pub(crate) first: String,
    pub(crate) second: String,
    /// A copy of the repository, taken after the first backup.
    pub(crate) early: PathBuf,
    pub(crate) end: Mark,
    pub(crate) server: Postgres,
    pub(crate) world: World,
}

impl Scene {
    /// The host's agent has ended; the server still runs.
    pub(crate) fn or_skip() -> Result<Option<Scene>> {
        let Some(installation) = Installation::any_or_skip() else { return Ok(None) };
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
        let mut host = Agent::configure(&world, &server, &repo)?;
        host.hold(&world, Holder::Host)?;
        host.set("signing", "statement_interval", "\"1s\"")?;
        let mut vault = Agent::named(&world, "vault", &server.conninfo(), &repo)?;
        vault.hold(&world, Holder::Vault)?;
        host.init()?;
        server.archive_with(&host.archive_command()?)?;
        host.start()?;
        workload::init(&server, 1)?;
        server.sql(&format!(
            "CREATE TABLE recipes AS SELECT '{SECRET}' AS text FROM generate_series(1, 100)"
        ))?;
        let first = host.backup_full()?;
        workload::transactions(&server, 100)?;
        let early = world.at("early");
        copy(&world, repo.folder(), &early)?;
        let second = host.backup_full()?;
        workload::transactions(&server, 100)?;
        server.switch_wal()?;
        workload::transactions(&server, 100)?;
        let end = server.mark()?;
        host.wait_durable(&end.lsn)?;
        host.stop()?;
        // States everything that there is.
        host.walkeep(&["expire"])?.ok()?;
        Ok(Some(Scene { installation, repo, host, vault, first, second, early, end, server, world }))
    }

    /// A copy of the repository, which anybody may spoil.
    pub(crate) fn copy(&self, name: &str) -> Result<PathBuf> {
        let to = self.world.at(name);
        copy(&self.world, self.repo.folder(), &to)?;
        Ok(to)
    }

    /// The folder of the branch in a copy.
    pub(crate) fn branch(&self, copy: &Path) -> Result<PathBuf> {
        let inside = std::fs::read_dir(copy.join("main"))?.next().context("there is no branch")??;
        Ok(inside.path())
    }

    /// `walkeep verify --deep --json` in the vault.
    pub(crate) fn verify(&mut self, copy: &Path) -> Result<Value> {
        self.look_at(copy)?;
        self.vault.walkeep(&["verify", "--deep", "--json"])?.json()
    }

    /// Has both machines use another copy.
    pub(crate) fn look_at(&mut self, copy: &Path) -> Result<()> {
        let url = format!("\"file://{}\"", copy.display());
        self.host.set("", "repository", &url)?;
        self.vault.set("", "repository", &url)
    }
}

pub(crate) fn copy(world: &World, from: &Path, to: &Path) -> Result<()> {
    Output::of(world.account().command("cp").arg("-a").arg(from).arg(to))?.ok().map(drop)
}

/// The findings of that severity whose message has these words.
pub(crate) fn found<'a>(findings: &'a Value, severity: &str, words: &str) -> Vec<&'a str> {
    let all = findings["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let message = |finding: &'a Value| finding["message"].as_str().unwrap_or_default();
    let of = all.iter().filter(|finding| finding["severity"] == severity).map(message);
    of.filter(|message| message.contains(words)).collect()
}

/// Something is told as an error, in these words.
#[track_caller]
pub(crate) fn told(findings: &Value, words: &str) -> Result<()> {
    ensure!(findings["ok"] == false, "nothing is wrong: {findings:#}");
    ensure!(!found(findings, "error", words).is_empty(), "{words:?} is not told: {findings:#}");
    Ok(())
}
