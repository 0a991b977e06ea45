//! Logical backups: what was dumped comes back, whole or in part; what fails is never listed; what retention does not keep goes.

mod faults;
mod formats;
mod keeping;
mod scene;
