//! The main job: lose the server, get it back as it was at a chosen moment, and as it was at the very end.

use anyhow::Result;
use harness::postgres::pg_verifybackup;
use harness::{Agent, Installation, Postgres, Repo, StoreKind, World, workload};

/// What an earlier recovery may have left in `postgresql.conf`. None of it may direct ours: it would end at once, wait, or fail.
const LEFT_OVER: [(&str, &str); 4] = [
    ("recovery_target", "immediate"),
    ("recovery_target_action", "shutdown"),
    ("recovery_min_apply_delay", "1h"),
    ("recovery_end_command", "exit 200"),
];

fn the_main_job(major: u32, store: StoreKind) -> Result<()> {
    let Some(installation) = Installation::or_skip(major) else { return Ok(()) };
    let world = World::new()?;
    let Some(repo) = Repo::or_skip(store, &world)? else { return Ok(()) };
    let builder = Postgres::build(&installation, "data").env(repo.environment());
    let server =
        LEFT_OVER.iter().fold(builder, |builder, (name, value)| builder.conf(name, value)).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;

    workload::init(&server, 2)?;
    agent.backup_full()?;
    workload::transactions(&server, 500)?;
    let good = server.mark()?;

    server.sql("DELETE FROM pgbench_accounts WHERE aid % 3 = 0")?;
    server.sql("DROP TABLE pgbench_history")?;
    server.sql("CREATE TABLE last_words AS SELECT 'still here' AS said")?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;

    let moment = world.at("moment");
    agent.restore(&moment, &["--target-time", &good.time, "--target-action", "promote"])?.ok()?;
    pg_verifybackup(&installation, &moment)?;
    // A second copy must not archive into the repository of the first.
    let restored = Postgres::adopt(&installation, &world, "moment.server", &moment)?
        .with_env(repo.environment())
        .with_setting("archive_mode", "off");
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, good.digest, "the content at {}", good.time);
    drop(restored);

    let latest = world.at("latest");
    agent.restore(&latest, &[])?.ok()?;
    pg_verifybackup(&installation, &latest)?;
    let restored =
        Postgres::adopt(&installation, &world, "latest.server", &latest)?.with_env(repo.environment());
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.sql("SELECT said FROM last_words")?, "still here", "the last transaction");
    assert_eq!(restored.digest_all()?, end.digest, "the content at the end");
    Ok(())
}

macro_rules! main_job {
    ($($name:ident: $major:literal, $store:ident;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            the_main_job($major, StoreKind::$store)
        })*
    };
}

main_job! {
    pg13_file: 13, File;
    pg13_s3: 13, S3;
    pg14_file: 14, File;
    pg14_s3: 14, S3;
    pg15_file: 15, File;
    pg15_s3: 15, S3;
    pg15_gcs: 15, Gcs;
    pg15_moto: 15, Moto;
    pg15_azurite: 15, Azurite;
    pg15_rclone: 15, Rclone;
    pg16_file: 16, File;
    pg16_s3: 16, S3;
    pg17_file: 17, File;
    pg17_s3: 17, S3;
    pg18_file: 18, File;
    pg18_s3: 18, S3;
    pg18_moto: 18, Moto;
    pg18_azurite: 18, Azurite;
}
