//! An object store behind a bad network: slow, out of order, twice, or with an answer that gets lost.
//!
//! A request is on its way by itself: it may arrive though its sender has died meanwhile. Conditions of writes are
//! ignored. What the real clients do about failures (asking again) is left out, so that each one reaches the stream.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::gate::Gate;

/// How the store behaves at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Milliseconds that a way takes at most.
    pub(crate) slow: u64,
    /// How many of a hundred requests do not arrive.
    pub(crate) fails: u32,
    /// How many of a hundred answers get lost.
    pub(crate) loses: u32,
    /// How many of a hundred writes arrive once more, later.
    pub(crate) repeats: u32,
    /// Nothing arrives.
    pub(crate) outage: bool,
    /// Nobody may delete: a bucket under lock.
    pub(crate) locked: bool,
}

pub(crate) const CALM: Weather =
    Weather { slow: 5, fails: 0, loses: 0, repeats: 0, outage: false, locked: false };

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) objects: Arc<InMemory>,
    weather: Mutex<Weather>,
    random: Mutex<StdRng>,
    changes: AtomicU64,
}

impl Network {
    pub(crate) fn new(objects: Arc<InMemory>, seed: u64) -> Arc<Self> {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Self { objects, weather: Mutex::new(CALM), random, changes: AtomicU64::new(0) })
    }

    pub(crate) fn set(&self, weather: Weather) {
        *self.weather.lock().expect("one thread") = weather;
    }

    /// How often what is stored has become different.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A random decision.
    pub(crate) fn draw<T>(&self, decide: impl FnOnce(&mut StdRng) -> T) -> T {
        decide(&mut self.random.lock().expect("one thread"))
    }

    pub(crate) fn fate(&self) -> Fate {
        let weather = *self.weather.lock().expect("one thread");
        let mut random = self.random.lock().expect("one thread");
        let mut chance = |percent: u32| random.random_range(0..100) < percent;
        let (fails, lost, repeats) =
            (chance(weather.fails) || weather.outage, chance(weather.loses), chance(weather.repeats));
        let mut way = || {
            // Now and then one takes much longer than the others.
            let most = if random.random_range(0..20) == 0 { weather.slow * 20 } else { weather.slow };
            Duration::from_millis(random.random_range(0..=most))
        };
        Fate { there: way(), back: way(), again: way() * 10, fails, lost, repeats, locked: weather.locked }
    }
}

pub(crate) struct Fate {
    pub(crate) there: Duration,
    pub(crate) back: Duration,
    again: Duration,
    pub(crate) fails: bool,
    pub(crate) lost: bool,
    repeats: bool,
    locked: bool,
}

fn silence() -> Error {
    Error::Generic { store: "simulated", source: "no answer".into() }
}

/// The store as one process sees it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) network: Arc<Network>,
    pub(crate) gate: Gate,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl View {
    /// Sends a request that changes something: it goes its way whatever becomes of the sender.
    async fn send<T: Send + 'static>(
        &self,
        request: impl Fn(Arc<InMemory>) -> BoxFuture<'static, Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.gate.pass().await;
        let (answer, answered) = oneshot::channel();
        let (fate, network) = (self.network.fate(), self.network.clone());
        tokio::spawn(async move {
            sleep(fate.there).await;
            let result = if fate.fails { Err(silence()) } else { request(network.objects.clone()).await };
            network.changed();
            sleep(fate.back).await;
            // The sender may be gone.
            let _ = answer.send(if fate.lost { Err(silence()) } else { result });
            if fate.repeats && !fate.fails {
                sleep(fate.again).await;
                // The second answer is nobody's.
                let _ = request(network.objects.clone()).await;
                network.changed();
            }
        });
        let answer = answered.await.unwrap_or_else(|_| Err(silence()));
        self.gate.pass().await;
        answer
    }

    /// Asks for something.
    async fn ask<T>(
        network: Arc<Network>,
        gate: Gate,
        question: impl FnOnce(Arc<InMemory>) -> BoxFuture<'static, Result<T>> + Send,
    ) -> Result<T> {
        gate.pass().await;
        let fate = network.fate();
        sleep(fate.there).await;
        let answer =
            if fate.fails || fate.lost { Err(silence()) } else { question(network.objects.clone()).await };
        sleep(fate.back).await;
        gate.pass().await;
        answer
    }
}

#[async_trait]
impl ObjectStore for View {
    async fn put_opts(&self, path: &Path, body: PutPayload, _condition: PutOptions) -> Result<PutResult> {
        let path = path.clone();
        self.send(move |objects| {
            let (path, body) = (path.clone(), body.clone());
            async move { objects.put(&path, body).await }.boxed()
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        _path: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(silence())
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let path = path.clone();
        Self::ask(self.network.clone(), self.gate.clone(), |objects| {
            async move { objects.get_opts(&path, options).await }.boxed()
        })
        .await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let view = Self { network: self.network.clone(), gate: self.gate.clone() };
        let locked = self.network.fate().locked;
        paths
            .and_then(move |path| {
                let view = Self { network: view.network.clone(), gate: view.gate.clone() };
                async move {
                    if locked {
                        let source = "it is locked".into();
                        return Err(Error::PermissionDenied { path: path.to_string(), source });
                    }
                    let gone = path.clone();
                    view.send(move |objects| {
                        let path = gone.clone();
                        async move { objects.delete(&path).await }.boxed()
                    })
                    .await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (network, gate, prefix) = (self.network.clone(), self.gate.clone(), prefix.cloned());
        let answer = Self::ask(network, gate, |objects| {
            async move { objects.list(prefix.as_ref()).try_collect::<Vec<_>>().await }.boxed()
        });
        futures::stream::once(answer)
            .map_ok(|found| futures::stream::iter(found.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        Self::ask(self.network.clone(), self.gate.clone(), |objects| {
            async move { objects.list_with_delimiter(prefix.as_ref()).await }.boxed()
        })
        .await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(silence())
    }
}
