//! The whole job over TCP with TLS: who we talk to is verified, and we are by SCRAM bound to the channel, or by a
//! certificate of our own. And what is said when one of the files for that is wrong.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use harness::certificates::Kind;
use harness::{Agent, Certificates, Installation, Postgres, Repo, World, workload};

const HBA: &str = "
local   all         all                     trust
local   replication all                     trust
hostssl all         certified 127.0.0.1/32  cert
hostssl replication certified 127.0.0.1/32  cert
hostssl all         walkeep   127.0.0.1/32  scram-sha-256
hostssl replication walkeep   127.0.0.1/32  scram-sha-256
";

/// How the agent proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Password,
    Certificate,
}

/// A server that lets nobody in over TCP without TLS.
struct Guarded {
    world: World,
    certificates: Certificates,
    server: Postgres,
    repo: Repo,
}

impl Guarded {
    fn or_skip(major: u32) -> Result<Option<Guarded>> {
        let Some(installation) = Installation::or_skip(major) else { return Ok(None) };
        let world = World::new()?;
        let Some(certificates) = Certificates::or_skip(&world)? else { return Ok(None) };
        let ours = Kind { extensions: "extendedKeyUsage=clientAuth", ..Kind::default() };
        certificates.issue("right", "localhost", Kind::default())?;
        certificates.issue("certified", "certified", ours)?;
        certificates.issue("late", "certified", Kind { expired: true, ..ours })?;
        certificates.serve("right")?;
        let server = Postgres::build(&installation, "data").hba(HBA).tls(&certificates).start(&world)?;
        server.sql("CREATE ROLE certified LOGIN REPLICATION; GRANT pg_monitor TO certified")?;
        let repo = Repo::file(&world)?;
        Ok(Some(Guarded { world, certificates, server, repo }))
    }

    fn conninfo(&self, host: &str, user: &str, more: &str) -> String {
        let (port, root) = (self.server.port(), self.certificates.path("ca.crt"));
        format!(
            "host={host} hostaddr=127.0.0.1 port={port} user={user} dbname=postgres sslmode=verify-full \
             sslrootcert={} {more}",
            root.display()
        )
    }

    /// Our certificate and its key.
    fn identity(&self, name: &str) -> String {
        let path = |extension: &str| self.certificates.path(&format!("{name}.{extension}"));
        format!("sslcert={} sslkey={}", path("crt").display(), path("key").display())
    }

    fn agent(&self, conninfo: &str) -> Result<Agent> {
        Agent::named(&self.world, "walkeep", conninfo, &self.repo)
    }
}

fn the_whole_job(major: u32, proof: Proof) -> Result<()> {
    let Some(guarded) = Guarded::or_skip(major)? else { return Ok(()) };
    let server = &guarded.server;
    let conninfo = match proof {
        Proof::Password => {
            let line = format!("localhost:{}:*:walkeep:walkeep\n", server.port());
            let passfile = guarded.world.write("passwords", line)?;
            fs::set_permissions(&passfile, Permissions::from_mode(0o600))?;
            let more = format!("channel_binding=require passfile={}", passfile.display());
            guarded.conninfo("localhost", "walkeep", &more)
        }
        Proof::Certificate => guarded.conninfo("localhost", "certified", &guarded.identity("certified")),
    };
    let mut agent = guarded.agent(&conninfo)?;
    agent.init()?;
    server.archive_with(&agent.archive_command()?)?;
    agent.start()?;
    let streams = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl";
    assert_eq!(server.sql(streams)?, "1", "WAL is streamed over TLS");

    workload::init(server, 1)?;
    agent.backup_full()?;
    workload::transactions(server, 100)?;
    let end = server.mark()?;
    agent.wait_durable(&end.lsn)?;
    server.destroy()?;
    agent.stop()?;
    assert_eq!(agent.labels()?.len(), 1);

    let latest = guarded.world.at("latest");
    agent.restore(&latest, &[])?.ok()?;
    let restored = Postgres::adopt(server.installation(), &guarded.world, "latest.server", &latest)?;
    restored.start()?;
    restored.wait_promoted()?;
    assert_eq!(restored.digest_all()?, end.digest, "the content at the end");
    Ok(())
}

#[test]
fn pg15_password() -> Result<()> {
    the_whole_job(15, Proof::Password)
}

#[test]
fn pg15_certificate() -> Result<()> {
    the_whole_job(15, Proof::Certificate)
}

#[test]
fn pg18_password() -> Result<()> {
    the_whole_job(18, Proof::Password)
}

#[test]
fn pg18_certificate() -> Result<()> {
    the_whole_job(18, Proof::Certificate)
}

/// The operator reads one sentence about what is wrong with a certificate, a key or a password file; nothing is made.
#[test]
fn pg15_refusals_are_told() -> Result<()> {
    let Some(guarded) = Guarded::or_skip(15)? else { return Ok(()) };
    let told = |conninfo: &str| guarded.agent(conninfo)?.walkeep(&["init"]);
    let certified = |name: &str| guarded.conninfo("localhost", "certified", &guarded.identity(name));
    let with_passfile = |name: &str| {
        let passfile = guarded.world.at(name);
        guarded.conninfo("localhost", "walkeep", &format!("passfile={}", passfile.display()))
    };

    let elsewhere = guarded.conninfo("db.example", "certified", &guarded.identity("certified"));
    told(&elsewhere)?.failed(1, &["db.example", "another host name"]);
    let foreign = certified("certified").replace("ca.crt", "other.crt");
    told(&foreign)?.failed(1, &["localhost", "authority", "sslrootcert"]);
    told(&certified("late"))?.failed(1, &["localhost", "certificate", "expired"]);
    told(&certified("nowhere"))?.failed(1, &["nowhere.crt"]);
    let in_clear = certified("certified").replace("sslmode=verify-full", "sslmode=disable");
    told(&in_clear)?.failed(1, &["pg_hba.conf"]);

    told(&with_passfile("nowhere"))?.failed(1, &["password file", "nowhere", "does not exist"]);
    let passfile = guarded.world.write("passwords", "*:*:*:*:walkeep\n")?;
    fs::set_permissions(&passfile, Permissions::from_mode(0o644))?;
    told(&with_passfile("passwords"))?.failed(1, &["passwords", "0600"]);
    // Whoever runs the agent cannot open it.
    fs::set_permissions(&passfile, Permissions::from_mode(0o000))?;
    told(&with_passfile("passwords"))?.failed(1, &["passwords", "permission denied"]);
    fs::set_permissions(guarded.certificates.path("certified.key"), Permissions::from_mode(0o000))?;
    told(&certified("certified"))?.failed(1, &["certified.key", "permission denied"]);

    let made = guarded.repo.objects()?;
    assert!(made.iter().all(|object| object.key == "walkeep.json"), "nothing more may be made: {made:?}");
    assert_eq!(guarded.server.sql("SELECT count(*) FROM pg_replication_slots")?, "0");
    Ok(())
}
