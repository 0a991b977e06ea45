//! Chance: names of writers, pauses between tries. In a simulation it comes from a seed, so that a run can be repeated.
//!
//! A thread that has called [`seed`] is such a simulation. What else would differ from run to run is then avoided,
//! too: work that is done in other threads elsewhere is done in place.

use std::cell::RefCell;

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on all that is random in this thread follows from `seed`. For simulations and tests only.
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// A random value.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => seeded.random(),
        None => rand::random(),
    })
}

/// Whether this thread is a simulation.
pub(crate) fn is_seeded() -> bool {
    SEEDED.with_borrow(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_without_one_nothing_does() {
        let draw = || (random::<u64>(), random::<u64>());
        assert_ne!(draw(), draw());
        seed(7);
        let first = draw();
        seed(7);
        assert_eq!(draw(), first);
        assert_ne!(std::thread::spawn(draw).join().unwrap(), first, "other threads have no seed");
    }
}
