//! One suite of checks for every store: whatever keeps them may hold a repository.
//!
//! For tests, so a check that fails panics and says what was expected. Each works in a folder of its own.

mod branch;
mod faults;
mod growing;
mod objects;

pub use branch::check_branch;
pub use faults::{check_damage, check_missing_bucket, check_refused, check_unreachable};
pub use growing::check_growing;
pub use objects::check_objects;

use crate::{Key, Sealing, Store, Unsealing, WriterId};

/// Everything that a store in working order must keep: objects, and branches both plain and encrypted.
pub async fn check_store(store: &Store) {
    check_objects(store).await;
    let plain = (Sealing::plain(1), Unsealing::none());
    for (sealing, unsealing) in [plain, encrypted()] {
        check_branch(store, &sealing, &unsealing).await;
        check_damage(store, &sealing, &unsealing).await;
    }
    check_growing(store).await;
}

/// Sealing to a fresh identity, and what opens it.
pub fn encrypted() -> (Sealing, Unsealing) {
    let identity = age::x25519::Identity::generate();
    (Sealing::to(1, &[identity.to_public()], &[]), Unsealing::with(vec![identity]))
}

/// A folder that nobody has used.
fn fresh(name: &str) -> Key {
    Key::root().child("conformance").child(format_args!("{name}-{}", WriterId::random()))
}

/// Bytes that no compressor makes much smaller, the same each time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
