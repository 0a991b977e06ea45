//! Listings: everything below a key, a folder, or the names that start alike.

use std::sync::atomic::Ordering;

use futures::TryStreamExt;
use object_store::list::PaginatedListOptions;
use object_store::{ListResult, ObjectMeta};

use super::{Folder, ObjectInfo, Pages, Store, info};
use crate::{Error, Key, Result};

/// So many names on a page may be all that a store would tell.
const LONG_PAGE: usize = 1000;

/// From where on a listing goes on behind a name; of a folder, which ends in `/`, behind all that is in it: no character of a key
/// is greater than `{`.
fn behind(name: &str) -> String {
    if name.ends_with('/') { format!("{name}{{") } else { name.to_owned() }
}

impl Store {
    /// Everything under `prefix`, at any depth, in the keys' order.
    pub async fn list(&self, prefix: &Key) -> Result<Vec<ObjectInfo>> {
        if let Some(found) = self.blocking(|root, prefix| root.list(prefix), prefix).await? {
            return Ok(ordered(found));
        }
        let folder = self.folder_path(prefix)?;
        if let Some(pages) = &self.inner.pages {
            let start = folder.as_ref().map(|folder| format!("{folder}/"));
            return Ok(self.infos(&self.all_pages(pages, prefix, start.as_deref(), None).await?.objects));
        }
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
        let listed = match &self.inner.pages {
            Some(pages) => {
                let start = path.as_ref().map(|path| format!("{path}/"));
                self.all_pages(pages, folder, start.as_deref(), Some("/")).await?
            }
            None => {
                let listed = self.inner.objects.list_with_delimiter(path.as_ref()).await;
                listed.map_err(|error| self.listing_failure(folder, &error))?
            }
        };
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
        let Some(pages) = &self.inner.pages else {
            let mut objects = self.list_folder(folder).await?.objects;
            objects.retain(|object| object.key.name().starts_with(name_prefix));
            return Ok(objects);
        };
        let folder_path = self.inner.prefix.join(folder);
        let prefix = match folder_path.is_root() {
            true => name_prefix.to_owned(),
            false => format!("{folder_path}/{name_prefix}"),
        };
        Ok(self.infos(&self.all_pages(pages, folder, Some(&prefix), Some("/")).await?.objects))
    }

    /// Everything whose name starts with `prefix`, of which what is alike up to a `delimiter` behind that is told once.
    ///
    /// A store that knows only the first version of the listing cuts it after a thousand names, and does not say where to go on
    /// in the way that is understood here. So a long page that shall be the last one is tried: is there nothing behind it?
    async fn all_pages(
        &self,
        pages: &Pages,
        folder: &Key,
        prefix: Option<&str>,
        delimiter: Option<&'static str>,
    ) -> Result<ListResult> {
        let mut found =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        let (mut page_token, mut last) = (None, None::<String>);
        loop {
            let options = PaginatedListOptions {
                delimiter: delimiter.map(Into::into),
                offset: last.as_deref().filter(|_| page_token.is_none()).map(behind),
                page_token: page_token.take(),
                ..PaginatedListOptions::default()
            };
            let page = pages.store.list_paginated(prefix, options).await;
            let page = page.map_err(|error| self.listing_failure(folder, &error))?;
            let objects = page.result.objects.iter().map(|object| object.location.to_string());
            let names: Vec<String> = objects
                .chain(page.result.common_prefixes.iter().map(|folder| format!("{folder}/")))
                .collect();
            if let Some(before) = names.iter().find(|name| Some(*name) < last.as_ref()) {
                let why = format!(
                    "the store cuts long listings and does not go on with them: {before} comes again"
                );
                return Err(Error::Refused { what: self.what(folder), why });
            }
            found.objects.extend(page.result.objects);
            found.common_prefixes.extend(page.result.common_prefixes);
            page_token = page.page_token;
            let tried = names.len() >= LONG_PAGE && pages.begins_anywhere;
            if page_token.is_none() && !tried {
                return Ok(found);
            }
            last = names.into_iter().max().filter(|_| page_token.is_none());
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
        let Some(pages) = &self.inner.pages else { return Ok(()) };
        if self.inner.bucket_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Within the prefix: credentials may not reach further.
        let prefix = format!("{}/", self.inner.prefix);
        let prefix = (!self.inner.prefix.is_root()).then_some(prefix.as_str());
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let listed = pages.store.list_paginated(prefix, options).await;
        listed.map_err(|error| self.listing_failure(&Key::root(), &error))?;
        self.inner.bucket_seen.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn in_order(Folder { mut folders, objects }: Folder) -> Folder {
    folders.sort_unstable();
    folders.dedup();
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
    use std::sync::Arc;

    use object_store::list::{PaginatedListResult, PaginatedListStore};

    use super::super::Inner;
    use super::*;

    /// What a store with these names makes of a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Manner {
        /// It says where to go on.
        Tells,
        /// It cuts after a thousand names, and does not say where to go on; it begins where it is told.
        Silent,
        /// The same, and it always begins at the beginning.
        Deaf,
    }

    #[derive(Debug)]
    struct Names(Manner, Vec<String>);

    #[async_trait::async_trait]
    impl PaginatedListStore for Names {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            let prefix = prefix.unwrap_or_default();
            let after =
                options.page_token.or(options.offset.filter(|_| self.0 != Manner::Deaf)).unwrap_or_default();
            let mut names: Vec<String> =
                self.1.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
            if options.delimiter.is_some() {
                for name in &mut names {
                    if let Some(at) = name[prefix.len()..].find('/') {
                        name.truncate(prefix.len() + at + 1);
                    }
                }
                names.dedup();
            }
            names.retain(|name| *name > after);
            let more = names.len() > 1000;
            names.truncate(1000);
            let page_token = names.last().cloned().filter(|_| more && self.0 == Manner::Tells);
            let (folders, objects): (Vec<_>, Vec<_>) =
                names.into_iter().partition(|name| name.ends_with('/'));
            let object = |name: String| ObjectMeta {
                location: name.into(),
                last_modified: Default::default(),
                size: 1,
                e_tag: None,
                version: None,
            };
            Ok(PaginatedListResult {
                result: ListResult {
                    common_prefixes: folders.into_iter().map(Into::into).collect(),
                    objects: objects.into_iter().map(object).collect(),
                    extensions: Default::default(),
                },
                page_token,
            })
        }
    }

    fn store(manner: Manner, names: Vec<String>) -> Store {
        let pages = Pages { store: Arc::new(Names(manner, names)), begins_anywhere: true };
        Store::from_parts(Inner {
            objects: Arc::new(object_store::memory::InMemory::new()),
            pages: Some(pages),
            prefix: Key::root(),
            root: None,
            grows: None,
            description: "names".to_owned(),
            attributes: Default::default(),
            tags: Default::default(),
            concurrency: 1,
            bucket_seen: Default::default(),
            activity: Default::default(),
        })
    }

    #[tokio::test]
    async fn a_listing_is_never_cut_short() {
        let folder = Key::new("folder").unwrap();
        for count in [999, 1000, 1001, 2500] {
            let flat = || (0..count).map(|number| format!("folder/name-{number:05}")).collect::<Vec<_>>();
            let deep = || (0..count).map(|number| format!("folder/{number:05}/x")).collect::<Vec<_>>();
            for manner in [Manner::Tells, Manner::Silent, Manner::Deaf] {
                let (flat, deep) = (store(manner, flat()), store(manner, deep()));
                let lengths = [
                    flat.list(&folder).await.map(|found| found.len()),
                    deep.list(&folder).await.map(|found| found.len()),
                    flat.list_starting(&folder, "name").await.map(|found| found.len()),
                    flat.list_folder(&folder).await.map(|found| found.objects.len()),
                    deep.list_folder(&folder).await.map(|found| found.folders.len()),
                ];
                for length in lengths {
                    match length {
                        Ok(length) => assert_eq!(length, count, "{manner:?}"),
                        Err(error) => {
                            assert!(manner == Manner::Deaf && count >= 1000, "{manner:?} {count}: {error}")
                        }
                    }
                }
            }
        }
    }

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
