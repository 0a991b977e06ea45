//! Listings: everything below a key, a folder, or the names that start alike.

use std::sync::atomic::Ordering;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::list::PaginatedListOptions;

use super::{Folder, ObjectInfo, Pages, Store, info};
use crate::{Error, Key, Result};

impl Store {
    /// Everything under `prefix`, at any depth, in the keys' order.
    pub async fn list(&self, prefix: &Key) -> Result<Vec<ObjectInfo>> {
        if let Some(found) = self.blocking(|root, prefix| root.list(prefix), prefix).await? {
            return Ok(ordered(found));
        }
        let folder = self.folder_path(prefix)?;
        let found: Vec<ObjectInfo> = self
            .inner
            .objects
            .list(folder.as_ref())
            .map_err(|error| self.listing_failure(prefix, &error))
            .try_filter_map(async |meta| Ok(self.key_of(&meta.location).map(|key| info(key, &meta))))
            .try_collect()
            .await?;
        Ok(ordered(found))
    }

    /// What lies directly in `folder`.
    pub async fn list_folder(&self, folder: &Key) -> Result<Folder> {
        if let Some(found) = self.blocking(|root, folder| root.list_folder(folder, ""), folder).await? {
            return Ok(in_order(found));
        }
        let path = self.folder_path(folder)?;
        let listed = self.inner.objects.list_with_delimiter(path.as_ref()).await;
        let listed = listed.map_err(|error| self.listing_failure(folder, &error))?;
        let folders = listed.common_prefixes.iter().filter_map(|path| self.key_of(path)).collect();
        Ok(in_order(Folder { folders, objects: self.infos(&listed.objects) }))
    }

    /// The objects directly in `folder` whose names start with `name_prefix`, in the keys' order.
    pub async fn list_starting(&self, folder: &Key, name_prefix: &str) -> Result<Vec<ObjectInfo>> {
        let start = name_prefix.to_owned();
        if let Some(found) =
            self.blocking(move |root, folder| root.list_folder(folder, &start), folder).await?
        {
            return Ok(ordered(found.objects));
        }
        let Some(Pages(pages)) = &self.inner.pages else {
            let mut objects = self.list_folder(folder).await?.objects;
            objects.retain(|object| object.key.name().starts_with(name_prefix));
            return Ok(objects);
        };
        let folder_path = self.inner.prefix.join(folder);
        let prefix = match folder_path.is_root() {
            true => name_prefix.to_owned(),
            false => format!("{folder_path}/{name_prefix}"),
        };
        let mut objects = Vec::new();
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                page_token,
                ..PaginatedListOptions::default()
            };
            let page = pages.list_paginated(Some(&prefix), options).await;
            let page = page.map_err(|error| self.listing_failure(folder, &error))?;
            objects.extend(page.result.objects);
            page_token = page.page_token;
            if page_token.is_none() {
                return Ok(self.infos(&objects));
            }
        }
    }

    fn infos(&self, objects: &[ObjectMeta]) -> Vec<ObjectInfo> {
        let known = objects.iter().filter_map(|meta| Some(info(self.key_of(&meta.location)?, meta)));
        ordered(known.collect())
    }

    /// A listing is never absent: an empty folder is an empty list.
    fn listing_failure(&self, folder: &Key, error: &object_store::Error) -> Error {
        match self.failure(folder, error) {
            Error::Absent { what } => {
                Error::Refused { what, why: "the store answered a listing with \"not found\"".into() }
            }
            error => error,
        }
    }

    /// Some stores answer for a missing bucket as for a missing object. A listing tells them apart; once is
    /// enough.
    pub(super) async fn see_bucket(&self) -> Result<()> {
        let Some(Pages(pages)) = &self.inner.pages else { return Ok(()) };
        if self.inner.bucket_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Within the prefix: credentials may not reach further.
        let prefix = format!("{}/", self.inner.prefix);
        let prefix = (!self.inner.prefix.is_root()).then_some(prefix.as_str());
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let listed = pages.list_paginated(prefix, options).await;
        listed.map_err(|error| self.listing_failure(&Key::root(), &error))?;
        self.inner.bucket_seen.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn in_order(Folder { mut folders, objects }: Folder) -> Folder {
    folders.sort_unstable();
    Folder { folders, objects: ordered(objects) }
}

/// In the keys' order, each once. `rclone serve s3` lists an object twice when equal writers have raced; the newest
/// word on it counts.
fn ordered(mut objects: Vec<ObjectInfo>) -> Vec<ObjectInfo> {
    objects.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.modified.cmp(&a.modified)));
    objects.dedup_by(|later, kept| later.key == kept.key);
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_lists_twice_is_listed_once() {
        let object = |key: &str, size, second| ObjectInfo {
            key: Key::new(key).expect("a key"),
            size,
            modified: jiff::Timestamp::from_second(second).expect("a time"),
        };
        let listed = vec![object("b", 1, 5), object("a", 2, 7), object("b", 3, 9), object("a", 4, 1)];
        assert_eq!(ordered(listed), [object("a", 2, 7), object("b", 3, 9)]);
    }
}
