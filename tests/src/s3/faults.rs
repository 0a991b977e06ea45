//! What can go wrong with a store, one switch each.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::PutObjectInput;
use s3s::service::S3Service;
use s3s::{Body, S3Request, S3Result, s3_error};

use super::{Dialect, google};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The switches of an [`S3Server`](super::S3Server). All are off at first.
#[derive(Debug, Default)]
pub struct Faults {
    latency_ms: AtomicU64,
    unavailable: AtomicU32,
    resets: AtomicU32,
    cuts: AtomicU32,
    read_only: AtomicBool,
    ignores_conditions: AtomicBool,
    stumbles: AtomicU64,
    requests: AtomicU64,
    injected: AtomicU64,
    full: AtomicBool,
    puts: AtomicU32,
    most_puts: AtomicU32,
    held_puts: Mutex<Option<String>>,
    held_gets: Mutex<Option<String>>,
}

impl Faults {
    /// Every request waits so long before it is served.
    pub fn latency(&self, delay: Duration) {
        self.latency_ms.store(delay.as_millis() as u64, SeqCst);
    }

    /// The next `count` requests are answered with 503 SlowDown.
    pub fn unavailable(&self, count: u32) {
        self.unavailable.store(count, SeqCst);
    }

    /// The next `count` requests lose their connection unanswered.
    pub fn reset(&self, count: u32) {
        self.resets.store(count, SeqCst);
    }

    /// Every `pitch`th request meets a fault: 503, a reset and a cut body by turns. 0 switches it off.
    pub fn stumble(&self, pitch: u64) {
        self.stumbles.store(pitch, SeqCst);
    }

    /// Whatever would change something is refused with 403 AccessDenied.
    pub fn read_only(&self, on: bool) {
        self.read_only.store(on, SeqCst);
    }

    /// `If-None-Match` of a put is not looked at, as some production stores do: the last writer wins, silently.
    pub fn ignore_conditions(&self, on: bool) {
        self.ignores_conditions.store(on, SeqCst);
    }

    /// Whatever would need room is answered with 507 InsufficientStorage.
    pub fn full(&self, on: bool) {
        self.full.store(on, SeqCst);
    }

    /// Puts under keys with `part` in them are never answered, nor carried out. `None`: none is held any more, those that
    /// were until now stay so.
    pub fn hold_puts(&self, part: Option<&str>) {
        *self.held_puts.lock().expect("no holder of this lock panics") = part.map(str::to_owned);
    }

    /// The same for reading.
    pub fn hold_gets(&self, part: Option<&str>) {
        *self.held_gets.lock().expect("no holder of this lock panics") = part.map(str::to_owned);
    }

    fn holds(&self, request: &Request<Incoming>) -> bool {
        let held = match *request.method() {
            Method::PUT => &self.held_puts,
            Method::GET => &self.held_gets,
            _ => return false,
        };
        let held = held.lock().expect("no holder of this lock panics");
        held.as_ref().is_some_and(|part| request.uri().path().contains(part))
    }

    /// The most puts of objects that were under way at one moment, since this was last asked.
    pub fn most_puts_at_once(&self) -> u32 {
        self.most_puts.swap(0, SeqCst)
    }

    /// How many requests have come, the refused ones included.
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// How many requests a 503, a reset or a cut has met.
    pub fn injected(&self) -> u64 {
        self.injected.load(SeqCst)
    }

    /// Takes one from a counter, unless it is empty.
    fn take(&self, counter: &AtomicU32) -> bool {
        let taken = counter.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        self.injected.fetch_add(u64::from(taken), SeqCst);
        taken
    }
}

/// The faults that a store's own rules cause.
pub(super) struct Rules {
    pub(super) faults: Arc<Faults>,
    /// Whether an unsigned request is turned away.
    pub(super) signed: bool,
}

#[async_trait::async_trait]
impl S3Access for Rules {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let changes = matches!(*context.method(), Method::PUT | Method::POST | Method::DELETE);
        let stranger = self.signed && context.credentials().is_none();
        if stranger || (changes && self.faults.read_only.load(SeqCst)) {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(())
    }

    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if self.faults.ignores_conditions.load(SeqCst) {
            request.input.if_none_match = None;
            request.input.if_match = None;
        }
        Ok(())
    }
}

/// A put that is under way.
struct Counted(Arc<Faults>);

impl Counted {
    fn of(faults: &Arc<Faults>) -> Counted {
        let now = faults.puts.fetch_add(1, SeqCst) + 1;
        faults.most_puts.fetch_max(now, SeqCst);
        Counted(Arc::clone(faults))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.puts.fetch_sub(1, SeqCst);
    }
}

/// The faults of the network between client and store.
#[derive(Clone)]
pub(super) struct Faulty {
    pub(super) service: S3Service,
    pub(super) faults: Arc<Faults>,
    pub(super) dialect: Dialect,
}

impl hyper::service::Service<Request<Incoming>> for Faulty {
    type Response = Response<Cut>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let Faulty { service, faults, dialect } = self.clone();
        Box::pin(async move {
            let number = faults.requests.fetch_add(1, SeqCst) + 1;
            let pitch = faults.stumbles.load(SeqCst);
            if pitch > 0 && number.is_multiple_of(pitch) {
                let turns = [&faults.unavailable, &faults.resets, &faults.cuts];
                turns[(number / pitch % 3) as usize].store(1, SeqCst);
            }
            let is_put = request.method() == Method::PUT;
            let _counted = is_put.then(|| Counted::of(&faults));
            if faults.holds(&request) {
                // For as long as the client waits: then this is dropped.
                std::future::pending::<()>().await;
            }
            let delay = faults.latency_ms.load(SeqCst);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            if faults.take(&faults.resets) {
                return Err("a reset was asked for".into());
            }
            if faults.take(&faults.unavailable) {
                return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
            }
            if is_put && faults.full.load(SeqCst) {
                return Ok(error(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"));
            }
            if dialect == Dialect::Google
                && let Err((status, code)) = google::admit(request.headers_mut())
            {
                return Ok(error(status, code));
            }
            let answer = hyper::service::Service::call(&service, request)
                .await
                .map_err(|error| format!("{error:?}"))?;
            let length = answer.body().size_hint().lower();
            let limit = if length > 1 && faults.take(&faults.cuts) { length / 2 } else { u64::MAX };
            Ok(answer.map(|body| Cut { body, left: limit }))
        })
    }
}

fn error(status: StatusCode, code: &str) -> Response<Cut> {
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{}</Message></Error>",
        status.canonical_reason().unwrap_or_default()
    );
    let mut answer = Response::new(Cut { body: Body::from(text), left: u64::MAX });
    *answer.status_mut() = status;
    answer
}

/// A body that fails after so many bytes.
pub(super) struct Cut {
    body: Body,
    left: u64,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("the body was to be cut".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let cut = frame.map(|frame| match frame?.into_data() {
            Ok(mut data) => {
                data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= data.len() as u64;
                Ok(Frame::data(data))
            }
            Err(other) => Ok(other),
        });
        Poll::Ready(cut)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
