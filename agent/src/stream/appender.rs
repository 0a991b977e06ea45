//! What a session adds to its journal: one record after the other, each when the one before it is durable.

use std::collections::VecDeque;
use std::future::pending;

use futures::FutureExt;
use futures::future::BoxFuture;
use repository::Journal;

use super::action::{Append, JobId};
use super::sink::Sink;

/// An append under way: it has the journal, and gives it back.
type Running = BoxFuture<'static, (Option<Journal>, repository::Result<JobId>)>;

/// Runs within the session's own task: a commit waits for nothing but the disk.
pub(crate) struct Appender {
    sink: Sink,
    journal: Option<Journal>,
    running: Option<Running>,
    waiting: VecDeque<Append>,
}

impl Appender {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink, journal: None, running: None, waiting: VecDeque::new() }
    }

    /// One more, behind all others.
    pub(crate) fn push(&mut self, append: Append) {
        self.waiting.push_back(append);
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Waits until the next one is durable, for ever if there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> repository::Result<JobId> {
        let running = match &mut self.running {
            Some(running) => running,
            none => match self.waiting.pop_front() {
                Some(append) => none.insert(self.sink.clone().append(self.journal.take(), append).boxed()),
                None => return pending().await,
            },
        };
        let (journal, result) = running.await;
        self.running = None;
        self.journal = journal;
        result
    }
}
