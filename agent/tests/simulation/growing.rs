//! Objects that grow, behind the same network: a disk that may tear what is being written when somebody dies.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::Rng;
use repository::store::{Growing, Grows};
use repository::{Error, Key, Result};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::gate::Gate;
use crate::store::{Network, View};

/// What becomes of bytes on their way to the disk.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// They are durable.
    Written,
    /// Nobody has touched anything.
    NoRoom,
    /// So many of them got there, and then zeros or rubbish.
    Torn(usize, u8),
}

fn unreachable(what: &Key) -> Error {
    Error::Unreachable { what: what.to_string(), why: "no answer".into() }
}

impl Network {
    /// What becomes of `length` bytes; `mourned` if nobody waits for them any more.
    fn bytes_fate(&self, length: usize, fails: bool, mourned: bool) -> Fate {
        self.draw(|random| {
            let torn = |random: &mut rand::rngs::StdRng| {
                let rest = if random.random() { 0 } else { 0xA5 };
                Fate::Torn(random.random_range(0..=length), rest)
            };
            match (fails, mourned) {
                (true, _) if random.random() => Fate::NoRoom,
                (true, _) => torn(random),
                (false, true) if random.random_range(0..3) == 0 => torn(random),
                (false, _) => Fate::Written,
            }
        })
    }

    /// Some zeros behind the end, as a disk has them that makes room beforehand.
    fn filler(&self) -> usize {
        self.draw(|random| if random.random() { random.random_range(0..300) } else { 0 })
    }
}

impl View {
    /// Writes to the end of an object, which goes its way whatever becomes of the sender. Answers whether the object may be
    /// used on.
    async fn write(&self, key: &Key, end: Option<usize>, bytes: Vec<u8>) -> (Result<()>, bool) {
        self.gate.pass().await;
        let path = Path::from(key.as_str());
        let (mut answer, answered) = oneshot::channel();
        let (network, what) = (self.network.clone(), key.clone());
        tokio::spawn(async move {
            let way = network.fate();
            tokio::select! {
                () = sleep(way.there) => {}
                // Whoever dies does so at any moment of a write.
                () = answer.closed() => {}
            }
            let fate = network.bytes_fate(bytes.len(), way.fails, answer.is_closed());
            let filler = network.filler();
            let done = apply(network.objects.clone(), &path, end, bytes, fate, filler).await;
            network.changed();
            sleep(way.back).await;
            let lost = way.lost || !done;
            // The sender may be gone.
            let _ = answer.send(match fate {
                Fate::Written if !lost => (Ok(()), true),
                Fate::NoRoom => (Err(unreachable(&what)), true),
                _ => (Err(unreachable(&what)), false),
            });
        });
        let answer = answered.await.unwrap_or_else(|_| (Err(unreachable(key)), false));
        self.gate.pass().await;
        answer
    }
}

/// Whether there is such an object.
fn apply(
    objects: Arc<InMemory>,
    path: &Path,
    end: Option<usize>,
    mut bytes: Vec<u8>,
    fate: Fate,
    filler: usize,
) -> BoxFuture<'static, bool> {
    let path = path.clone();
    Box::pin(async move {
        let mut content = match (end, objects.get(&path).await) {
            (None, Err(_)) => Vec::new(),
            (Some(end), Ok(found)) => {
                let mut content = found.bytes().await.expect("memory").to_vec();
                content.truncate(end);
                content
            }
            (None, Ok(_)) | (Some(_), Err(_)) => return false,
        };
        match fate {
            Fate::Written => {}
            Fate::NoRoom => return true,
            Fate::Torn(length, rest) => bytes[length..].fill(rest),
        }
        content.extend(bytes);
        content.resize(content.len() + filler, 0);
        objects.put(&path, content.into()).await.is_ok()
    })
}

#[async_trait]
impl Grows for View {
    async fn create(&self, key: &Key, bytes: Vec<u8>) -> Result<Box<dyn Growing>> {
        let end = bytes.len();
        self.write(key, None, bytes).await.0?;
        let view = View { network: self.network.clone(), gate: self.gate.clone() };
        Ok(Box::new(Object { view, key: key.clone(), end, sound: true }))
    }
}

struct Object {
    view: View,
    key: Key,
    end: usize,
    sound: bool,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Object")
    }
}

#[async_trait]
impl Growing for Object {
    async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        assert!(self.sound, "a file is written to after its sync has failed");
        let length = bytes.len();
        self.sound = false;
        let (result, sound) = self.view.write(&self.key, Some(self.end), bytes).await;
        self.sound = sound;
        result?;
        self.end += length;
        Ok(())
    }

    fn is_sound(&self) -> bool {
        self.sound
    }
}

/// The store of one process; its objects grow or not.
pub(crate) fn store(network: Arc<Network>, gate: Gate, grows: bool) -> repository::Store {
    let view = Arc::new(View { network, gate });
    let objects: Arc<dyn ObjectStore> = view.clone();
    repository::Store::growing_over(objects, grows.then_some(view as Arc<dyn Grows>), "simulated")
}
