//! Somebody who reaches the ports. How TLS is spoken, and that it is not talked down, is tried in `client` and `tls`.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::http::{ask, get};
use harness::{Agent, Installation, Port, Postgres, Repo, World, wait_for};

#[test]
fn the_status_page_changes_nothing() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::file(&world)?;
    let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let port = Port::reserve()?;
    agent.set("http", "listen", &format!("\"127.0.0.1:{port}\""))?;
    agent.init()?;
    agent.start()?;
    let port = port.number();
    wait_for("the page answers", Duration::from_secs(60), || {
        Ok((get(port, "/healthz")?.status == 200).then_some(()))
    })?;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        for path in ["/", "/status.json", "/metrics", "/expire", "/backup", "/healthz"] {
            let reply = ask(method, port, path, &[], "label=x")?;
            ensure!(reply.status == 405, "{method} {path}: {reply:?}");
        }
    }
    for path in ["/../../etc/passwd", "/%2e%2e/walkeep.toml", "/walkeep.toml", "//etc/passwd", "/?/../x"] {
        let reply = get(port, path)?;
        ensure!(
            reply.status != 500 && !reply.body.contains("root:") && !reply.body.contains("[stream]"),
            "{path}: {reply:?}"
        );
    }
    ensure!(repo.objects()?.iter().all(|object| !object.key.contains("/backup/")));
    agent.stop()?;
    Ok(())
}
