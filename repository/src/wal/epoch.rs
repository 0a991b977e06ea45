//! Epochs: who streams since when, from where.

use proto::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use super::Epoch;
use crate::{Branch, Error, Kind, Result};

/// What a writer says of itself when it takes an epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochFacts {
    /// The timeline that it begins with.
    pub timeline: TimelineId,
    /// Where it begins: the start of a segment.
    pub start: Lsn,
    /// The slot that it holds, if any.
    pub slot: Option<String>,
}

/// No epoch's facts are longer.
const LONGEST: u64 = 64 << 10;

impl Branch {
    /// Takes the next epoch.
    ///
    /// Two writers that claim at once may take the same number. Their epochs differ by the writer, so nobody
    /// mixes their fragments.
    pub async fn claim_epoch(&self, facts: EpochFacts) -> Result<Epoch> {
        let last = self.epochs().await?.last().map_or(0, |epoch| epoch.number);
        let number = last
            .checked_add(1)
            .ok_or_else(|| Error::invalid(self.key(&Epoch::folder()), "there are no more epochs to take"))?;
        let epoch = Epoch { number, writer: self.writer() };
        let json = serde_json::to_vec(&facts).map_err(|error| Error::invalid(epoch, error))?;
        let mut header = self.header(Kind::Epoch, &epoch.key());
        (header.timeline, header.from) = (Some(facts.timeline), Some(facts.start));
        self.put_sealed(header, json.into()).await?;
        Ok(epoch)
    }

    /// All epochs that were taken, in order.
    pub async fn epochs(&self) -> Result<Vec<Epoch>> {
        let folder = self.store().list_folder(&self.key(&Epoch::folder())).await?;
        let mut epochs: Vec<Epoch> =
            folder.objects.iter().filter_map(|object| object.key.name().parse().ok()).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// What the writer of an epoch has said of itself.
    pub async fn read_epoch(&self, epoch: &Epoch) -> Result<EpochFacts> {
        let (_, json) = self.get_sealed(Kind::Epoch, &epoch.key(), LONGEST).await?;
        serde_json::from_slice(&json).map_err(|error| Error::corrupt(self.key(&epoch.key()), error))
    }
}
