//! Retention and verification: what is no longer needed goes in two steps, what stays can be restored, and what is
//! damaged or missing is named with the backups that it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::bad::flip_byte;
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, wait_for, workload};
use serde_json::Value;

fn keep_and_expire(major: u32, store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(store, &world)? else { return Ok(()) };
    let server = Postgres::build(&installation, "data").env(repo.environment()).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.set("retention", "full", "1")?;
    agent.set("retention", "grace", "\"1m\"")?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;

    workload::init(&server, 2)?;
    let first = agent.backup_full()?;
    workload::transactions(&server, 200)?;
    let then = server.mark()?;
    agent.walkeep(&["backup"])?.ok()?;
    let second = agent.labels()?.pop().context("no backup")?;
    workload::transactions(&server, 200)?;
    let third = agent.backup_full()?;
    workload::transactions(&server, 200)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    ensure!(verify(&agent, &[])?["ok"] == true);

    agent.walkeep(&["keep", &second])?.ok()?;
    let before = repo.objects()?.len();
    let plan: Value = agent.walkeep(&["expire", "--dry-run", "--json"])?.ok()?.json()?;
    let kept: Vec<bool> = plan["branches"][0]["backups"]
        .as_array()
        .context("`backups` is no list")?
        .iter()
        .map(|backup| backup["kept"] == true)
        .collect();
    assert_eq!(kept, [false, true, true], "{plan:#}");
    let text = agent.walkeep(&["expire", "--dry-run"])?.ok()?.stdout;
    for words in
        [&format!("goes   {first}"), &format!("stays  {second}  to be kept for ever"), "nothing was changed"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert_eq!(repo.objects()?.len(), before, "a dry run changes nothing");

    agent.walkeep(&["expire"])?.ok()?;
    assert_eq!(agent.labels()?, [second.clone(), third.clone()], "what is condemned is not offered any more");
    wait_for("the grace period is over", Duration::from_secs(200), || {
        agent.walkeep(&["expire"])?.ok()?;
        let left = repo.objects()?.iter().any(|object| object.key.contains(&format!("/backup/{first}/")));
        Ok((!left).then_some(()))
    })?;
    // The second backup was compared with the first, whose packs it needs.
    let findings = verify(&agent, &["--deep"])?;
    assert_eq!(findings["ok"], true, "{findings:#}");
    server.destroy()?;
    agent.stop()?;

    // Behind the end of the second one WAL is gone, and there is some again later: the server must not ask for it.
    let listed: Value = agent.walkeep(&["list", "--json"])?.ok()?.json()?;
    let windows = listed["windows"].as_array().context("`windows` is no list")?;
    ensure!(windows.len() == 2, "the WAL between the two backups has not gone: {listed:#}");
    let immediate = &["--backup", &second, "--target-immediate", "--target-action", "promote"][..];
    for (name, target, digest) in [("then", immediate, &then.digest), ("latest", &[], &end.digest)] {
        let data = world.at(name);
        agent.restore(&data, target)?.ok()?;
        let restored = Postgres::adopt(&installation, &world, &format!("{name}.server"), &data)?
            .with_env(repo.environment())
            .with_setting("archive_mode", "off");
        restored.start()?;
        restored.wait_promoted()?;
        assert_eq!(&restored.digest_all()?, digest, "{name}");
    }
    Ok(())
}

#[test]
fn pg15_file() -> Result<()> {
    keep_and_expire(15, StoreKind::File)
}

#[test]
fn pg18_s3() -> Result<()> {
    keep_and_expire(18, StoreKind::S3)
}

#[test]
fn what_is_damaged_or_missing_is_named() -> Result<()> {
    let Some(installation) = Installation::or_skip(15) else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    agent.start()?;
    workload::init(&server, 1)?;
    let label = agent.backup_full()?;
    server.switch_wal()?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    agent.stop()?;
    let begun = Instant::now();
    let findings = verify(&agent, &["--deep", "--max-rate", "16MiB"])?;
    assert_eq!(findings["ok"], true, "{findings:#}");
    // An empty cluster has 20 MB, a segment is whole, and pgbench's tables are there.
    ensure!(begun.elapsed() > Duration::from_secs(2), "it was read in {:?}", begun.elapsed());

    let objects = repo.objects()?;
    let one = |part: &str| {
        let found = objects.iter().find(|object| object.key.contains(part));
        found.map(|object| object.path.clone()).with_context(|| format!("no {part}"))
    };
    // A byte of a pack: only who reads it sees it.
    let pack = one("/pack/")?;
    flip_byte(&pack, 5000)?;
    assert_eq!(verify(&agent, &[])?["ok"], true);
    expect(&verify(&agent, &["--deep"])?, "pack", &label);
    flip_byte(&pack, 5000)?;
    assert_eq!(verify(&agent, &["--deep"])?["ok"], true);

    // A byte of a segment, with which the backup is not consistent.
    let segment = one("/wal/00000001/00000000/0000000100")?;
    flip_byte(&segment, 3000)?;
    expect(&verify(&agent, &["--deep"])?, "segment", "0000000100");
    flip_byte(&segment, 3000)?;

    for (part, code, words) in
        [("/pack/", "pack", label.as_str()), ("/manifest-", "manifest", label.as_str())]
    {
        let path = one(part)?;
        let content = std::fs::read(&path)?;
        std::fs::write(&path, &content[..content.len() - 10])?;
        expect(&verify(&agent, &[])?, code, words);
        std::fs::write(&path, &content)?;
        assert_eq!(verify(&agent, &[])?["ok"], true);
    }
    std::fs::remove_file(&pack)?;
    expect(&verify(&agent, &[])?, "pack", &label);
    let told = agent.walkeep(&["verify"])?;
    assert_eq!(told.code, Some(1));
    for words in ["does not exist", &label, "walkeep backup --full"] {
        assert!(told.stdout.contains(words), "{words}\n{}", told.stdout);
    }
    Ok(())
}

fn verify(agent: &Agent, arguments: &[&str]) -> Result<Value> {
    agent.walkeep(&[&["verify", "--json"], arguments].concat())?.json()
}

#[track_caller]
fn expect(findings: &Value, code: &str, words: &str) {
    assert_eq!(findings["ok"], false, "{findings:#}");
    let found = findings["findings"].as_array().expect("a list").iter().any(|finding| {
        finding["severity"] == "error"
            && finding["code"] == code
            && finding["message"].as_str().is_some_and(|message| message.contains(words))
    });
    assert!(found, "no {code} with {words} in {findings:#}");
}
