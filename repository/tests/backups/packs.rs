//! Packs: what is written is read back, or damage is told.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_is_read_back_plain_and_encrypted() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), true).await] {
        let files = [content(3_500_000, 1), content(70, 2), content(2 << 20, 3), content(1, 4)];
        let mut packs = PackWriter::new(branch.clone(), label(1), 2);
        let mut extents = Vec::new();
        for (file, pieces) in files.iter().zip([&[100_000, 7][..], &[70], &[2 << 20], &[1]]) {
            extents.push(append(&mut packs, file, pieces).await);
        }
        assert_eq!(packs.raw_bytes(), files.iter().map(|file| file.len() as u64).sum::<u64>());
        let packs = packs.finish().await.unwrap();
        assert_eq!(packs.len(), 1);
        assert!(extents.iter().all(|extents| extents.len() == 1), "{extents:?}");
        for (file, extents) in files.iter().zip(&extents) {
            assert_eq!(&read_extents(&branch, &packs, extents).await, file);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_end_when_enough_is_stored_and_nothing_is_lost_between_them() {
    let branch = plain().await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 2);
    // Noise, so that it is stored as long as it is.
    let mut noise = vec![0; 10 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);
    let mut extents = Vec::new();
    for round in 0..15u64 {
        for extent in append(&mut packs, &noise, &[32 << 10]).await {
            push_extent(&mut extents, extent.shifted(round * noise.len() as u64));
        }
    }
    let packs = packs.finish().await.unwrap();
    assert!((2..=4).contains(&packs.len()), "{packs:?}");
    assert_eq!(extents.len(), packs.len());
    for pack in &packs[..packs.len() - 1] {
        assert!((56 << 20..80 << 20).contains(&pack.stored_length()), "{pack:?}");
        assert_eq!(pack.raw_length() % FRAME_SIZE as u64, 0);
    }
    for pack in &packs {
        let key = branch.root().child("pack").child(pack.name().label()).child(pack.name().id());
        assert_eq!(branch.store().head(&key).await.unwrap().size, pack.stored_length());
    }
    let all = read_extents(&branch, &packs, &extents).await;
    assert!(all.chunks(noise.len()).all(|round| round == noise));
}

#[tokio::test]
async fn an_empty_backup_has_no_packs() {
    let packs = PackWriter::new(plain().await, label(1), 1);
    assert!(packs.finish().await.unwrap().is_empty());
}

#[tokio::test]
async fn ranges_come_in_order_and_touching_ones_as_one() {
    let branch = plain().await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 1);
    let file = content(5 * FRAME_SIZE + 10, 9);
    append(&mut packs, &file, &[1 << 20]).await;
    let packs = packs.finish().await.unwrap();
    let frame = FRAME_SIZE as u64;
    let wanted = [0..10, 10..20, 30..40, frame - 5..frame + 5, 4 * frame..5 * frame + 10];
    let pieces = read(&branch, &packs[0], &wanted).await.unwrap();
    let expected =
        [0..20, 30..40, frame - 5..frame, frame..frame + 5, 4 * frame..5 * frame, 5 * frame..5 * frame + 10];
    assert_eq!(pieces.len(), expected.len());
    for ((offset, piece), range) in pieces.into_iter().zip(expected) {
        assert_eq!((offset, &piece[..]), (range.start, &file[range.start as usize..range.end as usize]));
    }
    assert!(matches!(read(&branch, &packs[0], &[0..5 * frame + 11]).await, Err(Error::Invalid { .. })));
    assert!(read(&branch, &packs[0], &[]).await.unwrap().is_empty());
}

/// Whatever single byte of a pack is changed: no wrong byte comes out, and the error names the pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_before_a_byte_is_handed_out() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), true).await] {
        let mut packs = PackWriter::new(branch.clone(), label(1), 1);
        let file = content(3 * FRAME_SIZE, 5);
        append(&mut packs, &file, &[1 << 20]).await;
        let packs = packs.finish().await.unwrap();
        let key = branch.root().child("pack").child(label(1)).child(packs[0].name().id());
        let good = branch.store().get(&key).await.unwrap();
        let mut found = 0;
        for at in (0..good.len()).step_by(good.len() / 60).chain([8, 1023, 1024, good.len() - 1500]) {
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            branch.store().put(&key, bad.into()).await.unwrap();
            let mut reached = 0;
            let outcome = async {
                let stream = PackReader::read(&branch, &packs[0], &[0..3 * FRAME_SIZE as u64], 2).await?;
                futures::pin_mut!(stream);
                while let Some((offset, piece)) = stream.try_next().await? {
                    assert_eq!(
                        &file[offset as usize..offset as usize + piece.len()],
                        &piece[..],
                        "byte {at}"
                    );
                    reached += piece.len();
                }
                Ok::<_, Error>(())
            };
            match outcome.await {
                // A space within the header's padding, the closing header: not what the content depends on.
                Ok(()) => assert_eq!(reached, file.len()),
                Err(error) => {
                    found += 1;
                    assert!(matches!(error, Error::Corrupt { .. } | Error::Locked { .. }), "{error:?}");
                    assert!(error.to_string().contains(&packs[0].name().id()), "{error}");
                }
            }
        }
        assert!(found >= 55, "{found}");
        let cut = good.slice(..good.len() / 2);
        branch.store().put(&key, cut).await.unwrap();
        assert!(matches!(read(&branch, &packs[0], &[0..10]).await, Err(Error::Corrupt { .. })));
        branch.store().delete(&key).await.unwrap();
        assert!(matches!(read(&branch, &packs[0], &[0..10]).await, Err(Error::Absent { .. })));
    }
}

/// A store that fails midway: the writer says so, at once or at the end, and never lists a pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_is_an_error_and_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("r").display());
    std::fs::create_dir(folder.path().join("r")).unwrap();
    let store = Store::open(&url, &Default::default()).unwrap();
    let branch = branch_over(store, Sealing::plain(1), Unsealing::none()).await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 2);
    packs.append(content(3 << 20, 1)).await.unwrap();
    // The disk goes away.
    std::fs::rename(folder.path().join("r"), folder.path().join("gone")).unwrap();
    let outcome = async {
        for _ in 0..200 {
            packs.append(content(1 << 20, 2)).await?;
        }
        Ok::<_, Error>(())
    };
    let error = match outcome.await {
        Err(error) => {
            // It stays an error.
            assert!(packs.append(content(2 << 20, 2)).await.is_err());
            assert!(packs.finish().await.is_err());
            error
        }
        Ok(()) => packs.finish().await.unwrap_err(),
    };
    assert!(matches!(error, Error::Refused { .. } | Error::Unreachable { .. }), "{error:?}");
}
