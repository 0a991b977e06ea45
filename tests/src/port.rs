//! Ports for servers of tests that run side by side.

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};

/// Below those that the system gives to outgoing connections, which could take a port while its server is down.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A TCP port of 127.0.0.1 that no other test gets, in whatever process, as long as this value lives: whether a server
/// listens there or not.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the lock goes with the process, however that ends.
    _lock: File,
}

impl Port {
    /// One on which nothing listens.
    pub fn reserve() -> Result<Port> {
        let user = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("walkeep-ports-{user}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let length = RANGE.end - RANGE.start;
        let first = rand::random::<u16>() % length;
        for step in 0..length {
            let number = RANGE.start + (first + step) % length;
            let path = folder.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        bail!("no port of {RANGE:?} is free")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_a_port_while_it_is_reserved() {
        let ports: Vec<Port> = (0..20).map(|_| Port::reserve().expect("free")).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }
}
