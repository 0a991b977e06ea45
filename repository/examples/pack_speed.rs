//! How fast packs are written and read: `cargo run --release -p repository --example pack_speed -- DIRECTORY
//! [MIB] [JOBS]`.
//!
//! Makes a repository in DIRECTORY, which must not be one yet, writes MIB of half-compressible bytes into
//! packs, in buffers as a server sends them, and reads them back.

use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use futures::TryStreamExt;
use proto::SystemId;
use proto::wal::SegmentSize;
use repository::backup::{BackupKind, BackupLabel};
use repository::pack::{PackReader, PackWriter};
use repository::{BranchFacts, Repository, Sealing, Store, Unsealing};

/// What PostgreSQL puts into one message.
const BUFFER: usize = 32 << 10;

/// Pages of a table: a header, some random keys, text that repeats.
fn pages(length: usize) -> Bytes {
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; length];
    for row in bytes.chunks_mut(96) {
        let key = row.len().min(24);
        random.fill(&mut row[..key]);
        row[key..].iter_mut().zip(b"the balance of this branch is ").for_each(|(to, from)| *to = *from);
    }
    bytes.into()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown").to_owned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("a directory is missing")?;
    let mib: usize = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let jobs: usize = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let store = Store::open(&format!("file://{directory}"), &Default::default())?;
    Repository::create(store.clone()).await?;
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await?;
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    let branch = repository.begin_branch(&"main".parse()?, SystemId(1), facts).await?;

    let sample = pages(64 << 20);
    println!("before: {}", peak_memory());
    let label = BackupLabel::next(jiff::Timestamp::now(), BackupKind::Full, None);
    let begun = Instant::now();
    let mut packs = PackWriter::new(branch.clone(), label, jobs);
    let mut left = mib << 20;
    while left > 0 {
        for at in (0..sample.len().min(left)).step_by(BUFFER) {
            // A copy, as the socket makes one: else the sample would stay in the cache for ever.
            packs.append(Bytes::copy_from_slice(&sample[at..(at + BUFFER).min(sample.len())])).await?;
        }
        left -= sample.len().min(left);
    }
    let packs = packs.finish().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let stored: u64 = packs.iter().map(|pack| pack.stored_length()).sum();
    println!(
        "written: {mib} MiB in {seconds:.2} s, {:.0} MiB/s, {} packs, {} MiB stored; {}",
        mib as f64 / seconds,
        packs.len(),
        stored >> 20,
        peak_memory()
    );

    let begun = Instant::now();
    let mut read = 0;
    for pack in &packs {
        let all = 0..pack.raw_length();
        let mut pieces = PackReader::read(&branch, pack, std::slice::from_ref(&all), jobs).await?;
        while let Some((_, piece)) = pieces.try_next().await? {
            read += piece.len();
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    anyhow::ensure!(read == mib << 20, "{read} bytes came back");
    println!("read: {mib} MiB in {seconds:.2} s, {:.0} MiB/s; {}", mib as f64 / seconds, peak_memory());
    Ok(())
}
