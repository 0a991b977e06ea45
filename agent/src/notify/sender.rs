//! From the queue to whoever is to be told.

use std::time::{Duration, Instant};

use proto::config::{ClusterName, NotifyConfig};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::event::{Event, Notice, Severity};
use super::repeats::{Repeats, Told, essence};
use super::{command, webhook};

/// So many events wait. Who has more to tell in one go than anybody can read loses the last of it.
const QUEUE: usize = 64;

/// What goes on is told again after that: daily, for what happens daily.
const SILENCE: Duration = Duration::from_secs(23 * 3600);

/// Where events are put. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// Puts an event into the queue.
    pub fn tell(&self, event: Event) {
        match self.0.try_send(event) {
            // Closed: the agent is ending.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(event)) => {
                warn!("too many events wait: nobody is notified of {}: {}", event.event, event.message);
            }
        }
    }
}

/// Takes events out of the queue and tells them.
pub struct Notifier {
    queue: mpsc::Receiver<Event>,
    config: watch::Receiver<NotifyConfig>,
    cluster: ClusterName,
    host: String,
    repeats: Repeats,
}

impl Notifier {
    /// A queue, and who empties it. The configuration may be exchanged.
    pub fn new(cluster: ClusterName, config: watch::Receiver<NotifyConfig>) -> (Events, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        (Events(sender), Self { queue, config, cluster, host, repeats: Repeats::new(SILENCE) })
    }

    /// Tells events until nobody is left who has any.
    pub async fn run(mut self) {
        while let Some(event) = self.queue.recv().await {
            let config = self.config.borrow().clone();
            if config.command.is_empty() && config.webhook.is_none() {
                continue;
            }
            let count = match self.count(&event) {
                Told::Now(count) => count,
                Told::Counted => {
                    debug!("the event {} repeats itself, and is counted", event.event);
                    continue;
                }
            };
            let notice = Notice { cluster: self.cluster.as_str(), host: &self.host, event: &event, count };
            send(&config, &event, &notice.json()).await;
        }
    }

    /// Good news are always told. They end the bad ones.
    fn count(&mut self, event: &Event) -> Told {
        if let Some(ended) = event.event.ends() {
            self.repeats.forget(&format!("{ended} "));
        }
        match event.severity {
            Severity::Info => Told::Now(1),
            Severity::Error => {
                self.repeats.note(&essence(&format!("{} {}", event.event, event.message)), Instant::now())
            }
        }
    }
}

async fn send(config: &NotifyConfig, event: &Event, json: &str) {
    let by_command = command::run(&config.command, json, config.timeout);
    let by_webhook = async {
        match &config.webhook {
            Some(url) => webhook::post(url, json, config.timeout).await,
            None => Ok(()),
        }
    };
    let (by_command, by_webhook) = tokio::join!(by_command, Box::pin(by_webhook));
    for error in [by_command, by_webhook].into_iter().filter_map(Result::err) {
        warn!("nobody was notified of the event {} ({}): {error}", event.event, event.message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventKind;
    use super::*;

    fn notifier(command: &str) -> (Events, tokio::task::JoinHandle<()>) {
        let command = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
        let config = NotifyConfig { command, ..NotifyConfig::default() };
        let (_, config) = watch::channel(config);
        let (events, notifier) = Notifier::new("main".parse().unwrap(), config);
        (events, tokio::spawn(notifier.run()))
    }

    #[tokio::test]
    async fn bad_news_are_told_once_and_good_news_end_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events");
        let (events, task) = notifier(&format!("cat >> {}", file.display()));
        for (kind, message) in [
            (EventKind::BackupFailed, "backup 1 failed"),
            (EventKind::BackupFailed, "backup 2 failed"),
            (EventKind::DrillFailed, "no room"),
            (EventKind::BackupDone, "backup 3"),
            (EventKind::BackupDone, "backup 4"),
            (EventKind::BackupFailed, "backup 5 failed"),
        ] {
            events.tell(Event::now(kind, message));
        }
        drop(events);
        task.await.unwrap();
        let told = std::fs::read_to_string(file).unwrap();
        let told: Vec<serde_json::Value> =
            told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages: Vec<&str> = told.iter().map(|event| event["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["backup 1 failed", "no room", "backup 3", "backup 4", "backup 5 failed"]);
        assert!(told.iter().all(|event| event["cluster"] == "main" && event["count"] == 1));
    }

    #[tokio::test]
    async fn a_hook_that_hangs_blocks_nobody() {
        let (events, task) = notifier("exec sleep 600");
        let begun = Instant::now();
        for number in 0..2 * QUEUE {
            events.tell(Event::now(EventKind::Gap, format!("gap {number}")));
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        task.abort();
    }
}
