//! Taking tables, schemas or a database out of a copy: what is wanted is looked up, perhaps put under another name, dumped
//! by `pg_dump`, and perhaps loaded into a running server by `pg_restore`.

mod dump;
mod goal;
mod select;

pub use dump::{Dump, load_into};
pub use goal::Goal;
pub use select::{Selection, Wish, select};
