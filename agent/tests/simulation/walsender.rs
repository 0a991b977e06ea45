//! One replication session of a server, as PostgreSQL speaks it.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::wal::history::TimelineHistory;
use proto::{Lsn, TimelineId};
use repository::chance;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cluster::{Cluster, Promise, SLOT, SYSTEM, Slot, Up};
use crate::reader::{Reader, has_strangers};
use crate::wal::{Written, size};

/// What the agent's sessions ask for.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest piece of WAL in one message.
const PIECE: u64 = 128 << 10;

/// Why a session is over: the other side is gone, or the server is.
struct Over;

type Result<T> = std::result::Result<T, Over>;

pub(crate) struct Walsender {
    cluster: Cluster,
    host: usize,
    boot: u64,
    id: u64,
    io: DuplexStream,
    inbound: BytesMut,
    outbound: BytesMut,
    /// What the repository held of the server's timeline when this session began, where two servers write it: from where on
    /// which bytes. Whoever streams has to have seen that.
    held: Vec<(Lsn, Bytes)>,
    /// How often the agent has reported.
    reports: u32,
}

/// Serves until the session is over.
pub(crate) async fn serve(cluster: Cluster, host: usize, io: DuplexStream) {
    let (boot, id) = cluster.change(|state| (state.hosts[host].boot, state.session()));
    let mut session = Walsender {
        cluster: cluster.clone(),
        host,
        boot,
        id,
        io,
        inbound: BytesMut::new(),
        outbound: BytesMut::new(),
        held: Vec::new(),
        reports: 0,
    };
    // Over, one way or the other.
    let _ = session.commands().await;
    cluster.change(|state| {
        let slot = state.hosts[host].slot.as_mut().filter(|slot| slot.active == Some(id));
        slot.map(|slot| slot.active = None)
    });
}

impl Walsender {
    fn is_dead(&self) -> bool {
        self.cluster.state().hosts[self.host].boot != self.boot
    }

    fn message(&mut self, tag: u8, body: &[u8]) {
        self.outbound.put_u8(tag);
        self.outbound.put_u32(body.len() as u32 + 4);
        self.outbound.put_slice(body);
    }

    fn complete(&mut self, tag: &str) {
        self.message(b'C', &[tag.as_bytes(), b"\0"].concat());
    }

    fn ready(&mut self) {
        self.message(b'Z', b"I");
    }

    fn row(&mut self, values: &[Option<Vec<u8>>]) {
        self.message(b'T', &0u16.to_be_bytes());
        let mut row = BytesMut::new();
        row.put_u16(values.len() as u16);
        for value in values {
            row.put_i32(value.as_ref().map_or(-1, |value| value.len() as i32));
            row.put_slice(value.as_deref().unwrap_or_default());
        }
        self.message(b'D', &row);
    }

    fn error(&mut self, code: &str) {
        let fields = format!("SERROR\0VERROR\0C{code}\0Msimulated\0\0");
        self.message(b'E', fields.as_bytes());
    }

    async fn flush(&mut self) -> Result<()> {
        let until = Instant::now() + WAL_SENDER_TIMEOUT;
        let sent = timeout_at(until, self.io.write_all_buf(&mut self.outbound)).await;
        if matches!(sent, Ok(Ok(()))) && !self.is_dead() { Ok(()) } else { Err(Over) }
    }

    /// The next message; `None` at `until`, or when something has changed.
    async fn receive(
        &mut self,
        until: Option<Instant>,
        changes: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Result<Option<(u8, Bytes)>> {
        loop {
            if self.is_dead() {
                return Err(Over);
            }
            if self.inbound.len() >= 5 {
                let length =
                    u32::from_be_bytes(self.inbound[1..5].try_into().expect("four bytes")) as usize + 1;
                if self.inbound.len() >= length {
                    let mut message = self.inbound.split_to(length).freeze();
                    let tag = message.get_u8();
                    message.advance(4);
                    return Ok(Some((tag, message)));
                }
            }
            let wait = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                read = self.io.read_buf(&mut self.inbound) => match read {
                    Ok(0) | Err(_) => return Err(Over),
                    Ok(_) => {}
                },
                _ = changes.changed() => if until.is_some() { return Ok(None) },
                () = sleep_until(wait) => if until.is_some() { return Ok(None) },
            }
        }
    }

    async fn commands(&mut self) -> Result<()> {
        let mut changes = self.cluster.changes();
        loop {
            let Some((tag, body)) = self.receive(None, &mut changes).await? else { continue };
            if tag != b'Q' {
                return Err(Over);
            }
            let query = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
            let words: Vec<&str> = query.split_whitespace().collect();
            match words[..] {
                ["START_REPLICATION", "SLOT", _, "PHYSICAL", start, "TIMELINE", timeline] => {
                    let start = start.parse().map_err(|_| Over)?;
                    let timeline = timeline.parse().map_err(|_| Over)?;
                    self.start(start, timeline).await?;
                }
                _ => self.answer(&words),
            }
            self.ready();
            self.flush().await?;
        }
    }

    fn answer(&mut self, words: &[&str]) {
        let text = |text: String| Some(text.into_bytes());
        let cluster = self.cluster.clone();
        let mut state = cluster.state();
        let written = state.written(self.host).clone();
        let host = &mut state.hosts[self.host];
        match words {
            ["IDENTIFY_SYSTEM"] => {
                if has_strangers(&state) {
                    drop(state);
                    self.held = cluster.held(written.timeline);
                }
                let (timeline, end) = (written.timeline.to_string(), written.end.to_string());
                self.row(&[text(SYSTEM.to_string()), text(timeline), text(end), None]);
            }
            ["SHOW", "wal_segment_size"] => self.row(&[text("1MB".to_owned())]),
            ["READ_REPLICATION_SLOT", _] => match &host.slot {
                Some(slot) => self.row(&[
                    text("physical".to_owned()),
                    text(slot.restart.to_string()),
                    text(written.timeline.to_string()),
                ]),
                None => self.row(&[None, None, None]),
            },
            ["CREATE_REPLICATION_SLOT", ..] => {
                if host.slot.is_some() {
                    return self.error("42710");
                }
                host.slot = Some(Slot { restart: host.redo.max(host.floor), active: None });
                host.saved = host.slot.clone();
                self.row(&[text(SLOT.to_owned())]);
            }
            ["DROP_REPLICATION_SLOT", _] => {
                if host.slot.as_ref().is_some_and(|slot| slot.active.is_some()) {
                    return self.error("55006");
                }
                (host.slot, host.saved) = (None, None);
            }
            ["TIMELINE_HISTORY", timeline] => {
                let timeline: Option<TimelineId> = timeline.parse().ok();
                let own = timeline == Some(written.timeline);
                let ancestors: Vec<_> =
                    host.history.iter().filter(|entry| Some(entry.timeline) < timeline).collect();
                let known = own || host.history.iter().any(|entry| Some(entry.timeline) == timeline);
                if !known || ancestors.is_empty() {
                    return self.error("58P01");
                }
                let lines =
                    ancestors.iter().map(|entry| format!("{}\t{}\tno\n", entry.timeline, entry.switch));
                self.row(&[text("history".to_owned()), text(lines.collect())]);
            }
            _ => return self.error("42601"),
        }
        self.complete("DONE");
    }

    async fn start(&mut self, start: Lsn, timeline: TimelineId) -> Result<()> {
        let cluster = self.cluster.clone();
        let (writing, written, history, restart) = {
            let mut state = cluster.state();
            let written = state.written(self.host).clone();
            let host = &mut state.hosts[self.host];
            let Some(slot) = host.slot.as_mut() else {
                drop(state);
                self.error("42704");
                return Ok(());
            };
            if slot.active.is_some() {
                drop(state);
                self.error("55006");
                return Ok(());
            }
            slot.active = Some(self.id);
            let history = TimelineHistory { timeline: written.timeline, entries: host.history.clone() };
            (host.writing, written, history, slot.restart)
        };
        let switch = history.switch_from(timeline);
        if timeline != written.timeline && switch.is_none_or(|switch| start > switch) {
            self.error("XX000");
        } else if switch.is_some_and(|switch| start == switch) {
            self.end_of(timeline, &history);
        } else {
            // What is acknowledged of an older timeline lies on the way to it, and is the same bytes.
            let from = start.min(restart);
            // It is compared from here on, as long as there are whole segments, and with one tail behind them.
            let mut next = size().floor(start);
            self.held.retain(|(from, bytes)| {
                let wanted = *from == next;
                if wanted {
                    next = next + bytes.len() as u64;
                }
                wanted && timeline == written.timeline
            });
            let promise = Promise { writing, from, to: start };
            if self.stream(&written, promise, timeline, switch, restart).await? {
                self.end_of(timeline, &history);
            }
        }
        cluster.change(|state| state.hosts[self.host].slot.as_mut().map(|slot| slot.active = None));
        Ok(())
    }

    fn keepalive(&mut self, sent: Lsn, question: bool) {
        let mut keepalive = BytesMut::from(&b"k"[..]);
        [sent.0, 1].iter().for_each(|number| keepalive.put_u64(*number));
        keepalive.put_u8(question.into());
        self.message(b'd', &keepalive);
    }

    fn end_of(&mut self, timeline: TimelineId, history: &TimelineHistory) {
        let after = history.entries.iter().skip_while(|entry| entry.timeline != timeline);
        let next = after.clone().nth(1).map_or(history.timeline, |entry| entry.timeline);
        if let Some(switch) = history.switch_from(timeline) {
            self.row(&[Some(next.to_string().into_bytes()), Some(switch.to_string().into_bytes())]);
            self.complete("SELECT");
        }
        self.complete("START_STREAMING");
        self.complete("START_REPLICATION");
    }

    /// Streams until either side ends it. Answers whether the timeline has ended.
    async fn stream(
        &mut self,
        written: &Written,
        promise: Promise,
        timeline: TimelineId,
        switch: Option<Lsn>,
        restart: Lsn,
    ) -> Result<bool> {
        let mut changes = self.cluster.changes();
        let (mut sent, mut heard, mut reported) = (promise.to, Instant::now(), Lsn(0));
        let mut asked = None;
        let mut ended = false;
        self.message(b'W', &[0, 0, 0]);
        let floor = self.cluster.state().hosts[self.host].floor;
        if sent < floor {
            self.error("58P01");
            self.flush().await?;
            // As in PostgreSQL the session goes on; the agent leaves.
            return Ok(false);
        }
        loop {
            let (end, up) = {
                let state = self.cluster.state();
                (switch.unwrap_or(state.writings[promise.writing].end), state.hosts[self.host].up)
            };
            while sent < end {
                let to = end.min(sent + PIECE).min(size().segment_at(sent).end(size()));
                let mut data = BytesMut::from(&b"w"[..]);
                [sent.0, end.0, 1].iter().for_each(|number| data.put_u64(*number));
                data.put_slice(&written.bytes(sent, to));
                self.message(b'd', &data);
                self.flush().await?;
                sent = to;
            }
            if switch == Some(sent) && !ended {
                ended = true;
                self.message(b'c', b"");
                self.flush().await?;
            }
            if up == Up::Stopping && !ended && reported >= sent {
                self.complete("COPY 0");
                self.flush().await?;
                return Err(Over);
            }
            let now = Instant::now();
            let silent = if up == Up::Stopping { Duration::from_secs(1) } else { WAL_SENDER_TIMEOUT / 2 };
            if now >= heard + WAL_SENDER_TIMEOUT {
                return Err(Over);
            }
            if now >= asked.unwrap_or(heard) + silent {
                asked = Some(now);
                self.keepalive(sent, true);
                self.flush().await?;
            }
            let until = (asked.unwrap_or(heard) + silent).min(heard + WAL_SENDER_TIMEOUT);
            match self.receive(Some(until), &mut changes).await? {
                None => {}
                Some((b'c', _)) => {
                    if !ended {
                        self.message(b'c', b"");
                        self.complete("START_STREAMING");
                        self.complete("START_REPLICATION");
                    }
                    return Ok(ended);
                }
                Some((b'd', mut body)) if body.first() == Some(&b'r') => {
                    (heard, asked) = (Instant::now(), None);
                    body.advance(9);
                    self.reports += 1;
                    let flushed = Lsn(body.get_u64());
                    reported = reported.max(flushed);
                    if body.last() == Some(&1) {
                        self.keepalive(sent, false);
                        self.flush().await?;
                    }
                    self.acknowledged(flushed, Promise { to: flushed, ..promise }, timeline, sent, restart);
                }
                Some(_) => return Err(Over),
            }
        }
    }

    fn acknowledged(&self, flushed: Lsn, promise: Promise, timeline: TimelineId, sent: Lsn, restart: Lsn) {
        if !flushed.is_valid() {
            return;
        }
        self.cluster.change(|state| {
            let written = state.written(self.host);
            let differs = |(from, bytes): &&(Lsn, Bytes)| {
                let to = *from + bytes.len() as u64;
                written.timeline == timeline && (written.end < to || written.bytes(*from, to) != *bytes)
            };
            if flushed > restart
                && let Some((from, bytes)) = self.held.iter().find(differs)
            {
                let to = *from + bytes.len() as u64;
                state.wrong.push(format!(
                    "{flushed} of timeline {timeline} was acknowledged to a server that differs from what was stored \
                     before, from {from} to {to}"
                ));
            }
            if flushed > sent.max(restart) {
                state
                    .wrong
                    .push(format!("{flushed} of timeline {timeline} was acknowledged, {sent} was sent"));
            }
            if let Some(slot) = &mut state.hosts[self.host].slot {
                slot.restart = flushed;
            }
            if flushed > restart {
                state.promise(promise);
            }
        });
        // At this very moment it must be there. All of these looks would take most of the time, those in a long session of
        // small commits above all.
        if chance::random::<u8>() < if self.reports < 50 { 64 } else { 16 } {
            self.cluster.check(Reader::glance);
        }
    }
}
