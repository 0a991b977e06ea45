//! Metrics, status and the page, asked of a running agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::agent::lsn_number;
use harness::certificates::Kind;
use harness::http::{Reply, ask, exchange, get, samples};
use harness::{
    Agent, Browser, Certificates, Installation, Port, Postgres, Repo, Stop, World, wait_for, workload,
};

const PATIENCE: Duration = Duration::from_secs(120);

const TOKEN: &str = "a-token-that-nobody-guesses";

/// A server, an agent that serves HTTP, and a repository in a directory.
struct Scene {
    world: World,
    server: Postgres,
    agent: Agent,
    port: Port,
}

impl Scene {
    fn new() -> Result<Option<Scene>> {
        let Some(installation) = Installation::any_or_skip() else { return Ok(None) };
        let world = World::new()?;
        let repo = Repo::file(&world)?;
        let server = Postgres::build(&installation, "data").segment_mib(1).start(&world)?;
        let mut agent = Agent::configure(&world, &server, &repo)?;
        let port = Port::reserve()?;
        agent.set("http", "listen", &format!("\"127.0.0.1:{port}\""))?;
        agent.set("http", "refresh", "\"1s\"")?;
        agent.init()?;
        server.archive_with(&agent.archive_command()?)?;
        Ok(Some(Scene { world, server, agent, port }))
    }

    fn get(&self, path: &str) -> Result<Reply> {
        get(self.port.number(), path)
    }

    fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let reply = self.get("/metrics")?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(samples(&reply.body))
    }

    /// Waits until the metrics fulfil a condition.
    fn wait_metrics(
        &self,
        what: &str,
        condition: impl Fn(&dyn Fn(&str) -> f64) -> bool,
    ) -> Result<BTreeMap<String, f64>> {
        let mut last = BTreeMap::new();
        let seen = wait_for(what, PATIENCE, || {
            let metrics = self.metrics()?;
            // What is not there compares with nothing.
            let value = |name: &str| metrics.get(name).copied().unwrap_or(f64::NAN);
            let fulfilled = condition(&value);
            last.clone_from(&metrics);
            Ok(fulfilled.then_some(metrics))
        });
        seen.with_context(|| format!("{last:#?}\n{}", self.agent.log_text()))
    }

    fn wait_status(&self, path: &str, status: u16) -> Result<Reply> {
        let answer = wait_for(&format!("{path} answers {status}"), PATIENCE, || {
            let reply = self.get(path)?;
            Ok((reply.status == status).then_some(reply))
        });
        answer.with_context(|| self.agent.log_text())
    }
}

fn of_the_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("walkeep_")).map(str::to_owned).collect()
}

#[test]
fn metrics_move_with_the_work() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    scene.agent.start()?;
    scene.wait_status("/readyz", 200)?;
    let before = scene.wait_metrics("a server without a backup", |value| {
        value("walkeep_backups{kind=\"full\"}") == 0.0 && value("walkeep_slot_active") == 1.0
    })?;
    ensure!(before["walkeep_stream_state{state=\"streaming\"}"] == 1.0, "{before:?}");
    ensure!(!before.contains_key("walkeep_window_to_lsn_bytes{timeline=\"1\"}"), "{before:?}");

    workload::init(&scene.server, 1)?;
    workload::transactions(&scene.server, 50)?;
    scene.server.sql("SELECT pg_switch_wal()")?;
    let label = scene.agent.backup_full()?;
    // The end of it is no whole segment.
    workload::transactions(&scene.server, 10)?;
    let end = lsn_number(&scene.server.sql("SELECT pg_current_wal_flush_lsn()")?)? as f64;
    let after = scene.wait_metrics("all of it has arrived", |value| {
        value("walkeep_stream_durable_lsn_bytes") >= end
            && value("walkeep_archive_answered_total") >= 1.0
            && value("walkeep_backups{kind=\"full\"}") == 1.0
            && value("walkeep_window_to_lsn_bytes{timeline=\"1\"}") >= end
            && value("walkeep_at_risk_bytes") == 0.0
    })?;
    for grown in [
        "walkeep_stream_durable_lsn_bytes",
        "walkeep_stream_put_wal_bytes_total{object=\"record\"}",
        "walkeep_stream_put_wal_bytes_total{object=\"segment\"}",
        "walkeep_stream_put_duration_seconds_count{object=\"segment\"}",
        "walkeep_store_objects_written_total",
        "walkeep_store_written_bytes_total",
        "walkeep_archive_answered_total",
    ] {
        ensure!(after[grown] > before[grown], "{grown}: {} and {}", before[grown], after[grown]);
    }
    let backup = &scene.agent.list()?["backups"][0];
    ensure!(backup["label"] == label.as_str());
    for (metric, key) in [
        ("walkeep_last_backup_size_bytes", "size_bytes"),
        ("walkeep_last_backup_stored_bytes", "stored_bytes"),
    ] {
        let value = after[&format!("{metric}{{kind=\"full\"}}")];
        ensure!(Some(value) == backup[key].as_f64(), "{metric} is {value}, not {}", backup[key]);
    }
    ensure!(after["walkeep_gaps"] == 0.0, "{after:?}");

    // The server goes: what is at risk grows, and the agent is not ready. It comes back: all is well.
    scene.server.stop(Stop::Immediate)?;
    let reply = scene.wait_status("/readyz", 503)?;
    ensure!(reply.body.contains("the stream"), "{reply:?}");
    scene.wait_metrics("the outage is seen", |value| {
        value("walkeep_stream_interruptions_total") >= 1.0
            && value("walkeep_at_risk_seconds") > 1.0
            && value("walkeep_server_reachable") == 0.0
    })?;
    ensure!(scene.get("/healthz")?.status == 200);
    scene.server.start()?;
    scene.wait_status("/readyz", 200)?;

    // Nobody may look into the repository: the agent says so, and goes on when that is over.
    let repository = scene.world.at("repository");
    fs::set_permissions(&repository, Permissions::from_mode(0o000))?;
    let told =
        scene.wait_metrics("the repository is closed", |value| value("walkeep_repository_reachable") == 0.0);
    let reply = scene.wait_status("/readyz", 503);
    fs::set_permissions(&repository, Permissions::from_mode(0o700))?;
    let reply = told.and(reply)?;
    ensure!(reply.body.contains("the repository could not be looked at"), "{reply:?}");
    scene.wait_status("/readyz", 200)?;
    scene.agent.stop()
}

/// Every metric that the dashboard, the alerts and the manual name is in a real answer, and the manual has them all.
#[test]
fn every_metric_that_is_named_exists() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    scene.agent.start()?;
    let text = scene.wait_status("/metrics", 200)?.body;
    let mut exist = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').context("a type")?;
        exist.insert(name.to_owned());
        if kind == "histogram" {
            exist.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    let read = |name: &str| fs::read_to_string(of_the_project(&format!("docs/monitoring/{name}")));
    let (alerts, manual) = (read("alerts.yml")?, read("README.md")?);
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana-dashboard.json")?)?;
    for (what, text) in [("alerts", &alerts), ("dashboard", &dashboard.to_string()), ("manual", &manual)] {
        let named = named(text);
        ensure!(named.len() > 15, "{what}: {named:?}");
        let unknown: Vec<_> = named.difference(&exist).collect();
        ensure!(unknown.is_empty(), "{what} names what there is not: {unknown:?}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap_or_default();
        ensure!(manual.contains(&format!("\n| `{name}` |")), "the manual does not have {name}");
    }
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(names.len() > 10);
    for name in names {
        ensure!(
            manual.contains(&format!("\n### {name}\n")),
            "the manual does not say what to do after {name}"
        );
        let runbook = format!("runbook: docs/monitoring/README.md#{}\n", name.to_lowercase());
        ensure!(alerts.contains(&runbook), "{name} does not name its section");
    }
    scene.agent.stop()
}

#[test]
fn each_path_and_nothing_else() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    scene.agent.start()?;
    scene.agent.backup_full()?;
    scene.wait_metrics("the backup is seen", |value| value("walkeep_backups{kind=\"full\"}") == 1.0)?;
    let port = scene.port.number();

    let page = scene.get("/")?;
    ensure!(page.status == 200 && page.headers["content-type"].starts_with("text/html"), "{page:?}");
    for words in [
        "If the server burned now",
        "Recovery window",
        "Backups",
        "No restore has been proven yet",
        "streaming",
    ] {
        ensure!(page.body.contains(words), "{words}\n{}", page.body);
    }
    for outside in ["<script", "http://", "https://", "src=", "@import"] {
        let body = page.body.replace("http://www.w3.org/2000/svg", "");
        ensure!(!body.contains(outside), "{outside}");
    }
    let policy = &page.headers["content-security-policy"];
    ensure!(
        policy.starts_with("default-src 'none'; style-src 'nonce-") && !policy.contains("unsafe"),
        "{policy}"
    );

    let status = scene.get("/status.json")?;
    let json: serde_json::Value = serde_json::from_str(&status.body)?;
    ensure!(json["cluster"] == "main" && json["stream"]["state"].is_string(), "{json}");
    for key in ["archive", "last_backup", "last_error"] {
        ensure!(
            json.get(key).is_some() && scene.agent.status()?.get(key).is_some(),
            "{key} is not in {json}"
        );
    }

    for method in ["POST", "PUT", "DELETE"] {
        ensure!(ask(method, port, "/status.json", &[], "{}")?.status == 405, "{method}");
    }
    let head = ask("HEAD", port, "/metrics", &[], "")?;
    ensure!(head.status == 200 && head.body.is_empty(), "{head:?}");
    ensure!(scene.get("/etc/passwd")?.status == 404 && scene.get("/metrics/")?.status == 404);
    ensure!(ask("GET", port, "/", &[("Host", "evil.example")], "")?.status == 421);
    let long = "x".repeat(40_000);
    // Cut off in the middle of its request, a client may see the answer, or only that the connection is gone.
    let refused = ask("GET", port, "/", &[("X-Long", &long)], "");
    ensure!(!refused.as_ref().is_ok_and(|reply| reply.status == 200), "{refused:?}");

    // Those who say nothing do not keep the others out for longer than they may take.
    let silent: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(("127.0.0.1", port))).collect::<std::io::Result<_>>()?;
    scene.wait_status("/healthz", 200)?;
    drop(silent);
    scene.agent.stop()
}

#[test]
fn a_token_over_tls_and_an_address_that_is_taken() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    let port = scene.port.number();

    // In the open without a token: not at all.
    scene.agent.set("http", "listen", &format!("\"0.0.0.0:{port}\""))?;
    let refused = scene.agent.walkeep(&["run"])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("http.token_file"), "{refused:?}");
    scene.agent.set("http", "listen", &format!("\"127.0.0.1:{port}\""))?;

    // An address that is taken does not keep the agent from streaming, and is had when it is free.
    let taken = TcpListener::bind(("127.0.0.1", port))?;
    let token = scene.world.write("token", format!("{TOKEN}\n"))?;
    scene.agent.set("http", "token_file", &format!("{:?}", token.display().to_string()))?;
    scene.agent.start()?;
    wait_for("it is told", PATIENCE, || {
        Ok(scene.agent.log_text().contains("cannot serve metrics").then_some(()))
    })?;
    drop(taken);
    scene.wait_status("/healthz", 200)?;
    let with =
        |authorization: &str, path: &str| ask("GET", port, path, &[("Authorization", authorization)], "");
    ensure!(scene.get("/metrics")?.status == 401);
    ensure!(scene.get("/readyz")?.body.lines().count() == 1, "a word, and no reasons");
    ensure!(with("Bearer wrong-and-long-enough", "/metrics")?.status == 401);
    ensure!(with(&format!("Bearer {TOKEN}"), "/metrics")?.status == 200);
    scene.agent.stop()?;
    ensure!(!scene.agent.log_text().contains(TOKEN), "the token is in the log");

    let Some(certificates) = Certificates::or_skip(&scene.world)? else { return Ok(()) };
    certificates.issue("http", "localhost", Kind::default())?;
    for (key, file) in [("certificate_file", "http.crt"), ("key_file", "http.key")] {
        scene.agent.set("http", key, &format!("{:?}", certificates.path(file).display().to_string()))?;
    }
    scene.agent.start()?;
    let reply = wait_for("TLS is spoken", PATIENCE, || {
        over_tls(port, &certificates.path("ca.crt"), &[("Authorization", &format!("Bearer {TOKEN}"))])
            .map(Some)
    });
    let reply = reply.with_context(|| scene.agent.log_text())?;
    ensure!(reply.status == 200 && reply.body.contains("walkeep_build_info"), "{reply:?}");
    ensure!(over_tls(port, &certificates.path("ca.crt"), &[])?.status == 401);
    ensure!(get(port, "/healthz").is_err(), "without TLS there is no answer");
    scene.agent.stop()
}

fn over_tls(port: u16, authority: &Path, headers: &[(&str, &str)]) -> Result<Reply> {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{
        ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs,
    };

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut StreamOwned::new(connection, socket), "GET", "/metrics", headers, "")
}

/// In a browser: nothing is loaded or complained of, all fits on a phone, dark is dark.
#[test]
fn the_page_in_a_browser() -> Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    let Some(browser) = Browser::or_skip(&scene.world)? else { return Ok(()) };
    scene.agent.start()?;
    workload::init(&scene.server, 1)?;
    scene.agent.backup_full()?;
    workload::transactions(&scene.server, 200)?;
    scene.agent.walkeep(&["backup"])?.ok()?;
    workload::transactions(&scene.server, 200)?;
    scene.wait_metrics("both backups are seen", |value| {
        value("walkeep_last_backup_age_seconds{kind=\"incremental\"}") >= 0.0
            && value("walkeep_at_risk_bytes") == 0.0
    })?;
    let url = format!("http://127.0.0.1:{}/", scene.port);
    for (name, width, dark) in [("light", 1080, false), ("dark", 1080, true), ("phone", 390, true)] {
        browser.look(width, dark)?;
        browser.open(&url)?;
        let facts = browser.ask(
            "const seen = document.documentElement; return { \
               width: seen.scrollWidth, window: innerWidth, \
               loaded: performance.getEntriesByType('resource').map(entry => entry.name), \
               background: getComputedStyle(document.body).backgroundColor, \
               text: document.body.innerText, \
               dots: document.querySelectorAll('.lane .dot').length, \
               lane: document.querySelector('.lane svg').getBoundingClientRect().width, \
               rows: document.querySelectorAll('tbody tr').length }",
        )?;
        ensure!(
            facts["width"].as_f64() <= facts["window"].as_f64(),
            "{name} is wider than its window: {facts}"
        );
        ensure!(
            facts["loaded"].as_array().is_some_and(Vec::is_empty),
            "{name} has loaded {}",
            facts["loaded"]
        );
        ensure!((facts["background"] == "rgb(14, 19, 18)") == dark, "{name} has {}", facts["background"]);
        ensure!(facts["dots"] == 2 && facts["rows"] == 2, "{name}: {facts}");
        ensure!(facts["lane"].as_f64() > Some(200.0), "{name}: the picture is {} wide", facts["lane"]);
        let text = facts["text"].as_str().unwrap_or_default();
        for words in ["If the server burned now", "of commits lost", "Recovery window", "Stream", "streaming"]
        {
            ensure!(text.contains(words), "{name} does not show {words:?}:\n{text}");
        }
        let complaints = browser.complaints()?;
        ensure!(complaints.is_empty(), "{name}: {complaints:?}");
    }
    scene.agent.stop()
}
