//! People are told: a hook and a webhook get what happens, once; and what is well again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Installation, Postgres, Repo, Stop, StoreKind, World, wait_for, workload};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Takes every event that is posted to it.
struct Receiver {
    url: String,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start() -> Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/events", listener.local_addr()?);
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = events.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut part) {
                    request.extend_from_slice(&part[..read]);
                    if request.ends_with(b"}\n") {
                        break;
                    }
                }
                let body =
                    request.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| &request[at + 4..]);
                if let Some(event) = body.and_then(|body| serde_json::from_slice(body).ok()) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Ok(Receiver { url, events })
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_hook_and_a_webhook_are_told() -> Result<()> {
    let Some(installation) = Installation::any_or_skip() else { return Ok(()) };
    let world = World::new()?;
    let repo = Repo::of(StoreKind::File, &world)?;
    let server = Postgres::build(&installation, "data").start(&world)?;
    workload::init(&server, 1)?;
    let mut agent = Agent::configure(&world, &server, &repo)?;
    let receiver = Receiver::start()?;
    let file = world.folder("hook")?.join("events");
    let hook = format!("cat >> '{}'", file.display());
    agent.set("notify", "command", &format!("[\"/bin/sh\", \"-c\", {hook:?}]"))?;
    agent.set("notify", "webhook", &format!("{:?}", receiver.url))?;
    agent.set("notify", "after", "\"1s\"")?;
    agent.set("schedule", "incremental", "\"* * * * * *\"")?;
    agent.set("schedule", "drill", "\"* * * * * *\"")?;
    agent.set("drill", "bindir", "\"/nonexistent\"")?;
    agent.init()?;
    agent.start()?;

    let wait = |agent: &Agent, kind: &str, count: usize| {
        wait_for(&format!("{count} events {kind} are posted"), PATIENCE, || {
            let events = receiver.events();
            ensure!(of(&events, kind).len() >= count, "{events:#?}");
            Ok(Some(()))
        })
        .with_context(|| agent.log_text())
    };
    wait(&agent, "backup_done", 3)?;
    wait(&agent, "drill_failed", 1)?;
    server.stop(Stop::Immediate)?;
    wait(&agent, "stream_down", 1)?;
    server.start()?;
    wait(&agent, "stream_back", 1)?;
    wait(&agent, "backup_done", 5)?;
    agent.stop()?;

    let events = receiver.events();
    let failed = of(&events, "drill_failed");
    ensure!(failed.len() == 1, "what repeats itself is told once: {failed:#?}");
    ensure!(
        failed[0]["severity"] == "error" && failed[0]["job"] == "drill" && failed[0]["cluster"] == "main"
    );
    ensure!(failed[0]["message"].as_str().is_some_and(|why| why.contains("/nonexistent")), "{}", failed[0]);
    let log = agent.log_text();
    ensure!(!log.contains("nobody was notified"), "{log}");
    let told = fs::read_to_string(&file)?;
    let told: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    // The agent's end may have cut off one of the two at the last event.
    let both = told.len().min(events.len());
    ensure!(both >= 8 && told[..both] == events[..both], "both were told the same:\n{told:#?}\n{events:#?}");
    Ok(())
}
