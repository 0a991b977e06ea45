//! Buckets: S3, GCS and Azure, each by its builder, set up alike.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig, TagSet};
use proto::config::StorageConfig;

use super::failure::innermost;
use super::partial::PartialConnector;
use super::{Inner, Pages, Store, attributes};
use crate::{Error, Key, Result};

/// Whose protocol a bucket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    S3,
    Gcs,
    Azure,
}

impl Provider {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// The variables of a provider, by the names under which its builder knows them.
fn variables<'a, K: FromStr>(
    environment: &'a [(String, String)],
    prefix: &'a str,
) -> impl Iterator<Item = (K, &'a str)> {
    environment
        .iter()
        .filter(move |(name, _)| name.starts_with(prefix))
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
}

pub(super) fn open(
    provider: Provider,
    bucket: &str,
    prefix: Key,
    storage: &StorageConfig,
    environment: &[(String, String)],
) -> Result<Store> {
    let description = match prefix.is_root() {
        true => format!("{}://{bucket}", provider.scheme()),
        false => format!("{}://{bucket}/{prefix}", provider.scheme()),
    };
    check_endpoint(storage)?;
    check_keys(provider, storage)?;
    if provider == Provider::S3 && !may_have_credentials(storage, environment) {
        return Err(Error::Refused {
            what: description,
            why:
                "there are no credentials in the environment; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .into(),
        });
    }
    let failed = |error: object_store::Error| Error::invalid(&description, innermost(&error));
    let client = client(storage)?;
    let retry = retry(storage);
    let (objects, pages): (Arc<dyn ObjectStore>, Arc<dyn PaginatedListStore>) = match provider {
        Provider::S3 => {
            let builder = s3(bucket, storage, environment)?.with_client_options(client).with_retry(retry);
            let builder =
                builder.with_allow_http(storage.allow_http).with_http_connector(PartialConnector::default());
            let store = Arc::new(builder.build().map_err(failed)?);
            (store.clone(), store)
        }
        Provider::Gcs => {
            let builder = gcs(bucket, storage, environment).with_client_options(client).with_retry(retry);
            let store = Arc::new(builder.build().map_err(failed)?);
            (store.clone(), store)
        }
        Provider::Azure => {
            let builder = azure(bucket, storage, environment).with_client_options(client).with_retry(retry);
            let builder = builder.with_allow_http(storage.allow_http);
            let store = Arc::new(builder.build().map_err(failed)?);
            (store.clone(), store)
        }
    };
    let mut tags = TagSet::default();
    storage.tags.iter().for_each(|(name, value)| tags.push(name, value));
    Ok(Store::from_parts(Inner {
        objects,
        pages: Some(Pages { store: pages, begins_anywhere: provider != Provider::Azure }),
        prefix,
        root: None,
        grows: None,
        description,
        attributes: attributes(storage.storage_class.as_deref()),
        tags,
        concurrency: storage.concurrency,
        bucket_seen: AtomicBool::new(false),
        activity: Arc::default(),
    }))
}

fn s3(bucket: &str, storage: &StorageConfig, environment: &[(String, String)]) -> Result<AmazonS3Builder> {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in variables::<AmazonS3ConfigKey>(environment, "AWS_") {
        builder = builder.with_config(key, value);
    }
    builder = builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!storage.path_style)
        .with_disable_tagging(storage.tags.is_empty())
        // Nothing here writes under a condition.
        .with_conditional_put(S3ConditionalPut::Disabled);
    if let Some(endpoint) = &storage.endpoint {
        // The builder takes an endpoint as complete: the bucket's place in it is ours to fill.
        let endpoint = match storage.path_style {
            true => endpoint.trim_end_matches('/').to_owned(),
            false => with_bucket(endpoint, bucket)?,
        };
        // A service's endpoint out of the environment would win over the configured one.
        builder = builder.with_endpoint(&endpoint).with_config(AmazonS3ConfigKey::S3Endpoint, &endpoint);
    }
    if let Some(region) = &storage.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &storage.kms_key {
        builder = builder.with_sse_kms_encryption(key);
    }
    Ok(builder)
}

fn gcs(bucket: &str, storage: &StorageConfig, environment: &[(String, String)]) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (key, value) in variables::<GoogleConfigKey>(environment, "GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    if let Some((_, path)) = environment.iter().find(|(name, _)| name == "SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    if let Some(endpoint) = &storage.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    builder.with_bucket_name(bucket)
}

fn azure(
    container: &str,
    storage: &StorageConfig,
    environment: &[(String, String)],
) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in variables::<AzureConfigKey>(environment, "AZURE_") {
        builder = builder.with_config(key, value);
    }
    if let Some((_, endpoint)) = environment.iter().find(|(name, _)| name == "IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    if let Some(endpoint) = &storage.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.with_container_name(container).with_disable_tagging(storage.tags.is_empty())
}

/// Whether to try at all. Without keys in the environment the last resort is the instance service of Amazon's
/// machines, and it takes a while to find out that there is none; a store that is not Amazon's has no use for
/// it.
fn may_have_credentials(storage: &StorageConfig, environment: &[(String, String)]) -> bool {
    const SOURCES: [&str; 6] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ];
    let host = storage.endpoint.as_deref().and_then(|endpoint| url::Url::parse(endpoint).ok());
    let amazons = host.is_none_or(|url| url.domain().is_some_and(|name| name.contains("amazonaws.com")));
    amazons || environment.iter().any(|(name, _)| SOURCES.contains(&name.as_str()))
}

/// Keys that a provider has no use for must not be passed over: somebody relies on them.
fn check_keys(provider: Provider, storage: &StorageConfig) -> Result<()> {
    if storage.kms_key.is_some() && provider != Provider::S3 {
        let why = "only s3:// knows such keys; elsewhere the bucket's own setting decides, or [encryption]";
        return Err(Error::invalid("storage.kms_key", why));
    }
    if !storage.tags.is_empty() && provider == Provider::Gcs {
        return Err(Error::invalid("storage.tags", "gs:// has none for objects; s3:// and az:// do"));
    }
    Ok(())
}

fn check_endpoint(storage: &StorageConfig) -> Result<()> {
    let Some(endpoint) = &storage.endpoint else { return Ok(()) };
    let url = url::Url::parse(endpoint);
    let what = "storage.endpoint";
    match url {
        Ok(url) if url.username() != "" || url.password().is_some() => {
            Err(Error::invalid(what, "credentials do not belong in a URL; set them in the environment"))
        }
        Ok(url) if url.scheme() == "https" && url.has_host() => Ok(()),
        Ok(url) if url.scheme() == "http" && url.has_host() && storage.allow_http => Ok(()),
        Ok(url) if url.scheme() == "http" && url.has_host() => Err(Error::invalid(
            what,
            format_args!("{url} is without TLS; set `allow_http = true` if that is meant"),
        )),
        _ => Err(Error::invalid(
            what,
            format_args!("{endpoint:?} is not a URL such as https://s3.example.org"),
        )),
    }
}

/// `https://host` → `https://bucket.host`
fn with_bucket(endpoint: &str, bucket: &str) -> Result<String> {
    let invalid = || {
        let why = "the bucket cannot go into this host's name; set `path_style = true`";
        Error::invalid("storage.endpoint", why)
    };
    let mut url = url::Url::parse(endpoint).map_err(|_| invalid())?;
    let host = url.domain().map(|host| format!("{bucket}.{host}")).ok_or_else(invalid)?;
    url.set_host(Some(&host)).map_err(|_| invalid())?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn client(storage: &StorageConfig) -> Result<ClientOptions> {
    let mut options = ClientOptions::new()
        .with_allow_http(storage.allow_http)
        // A limit on the whole body would cut off large objects on slow lines; silence is what ends a
        // request.
        .with_timeout_disabled()
        .with_read_timeout(storage.read_timeout)
        .with_connect_timeout(storage.connect_timeout);
    if let Some(file) = &storage.ca_file {
        let what = format!("storage.ca_file {}", file.display());
        let pem = std::fs::read(file).map_err(|error| Error::invalid(&what, error))?;
        let bundle = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|bundle| !bundle.is_empty())
            .ok_or_else(|| Error::invalid(&what, "no certificate in PEM form is in there"))?;
        options = bundle.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    Ok(options)
}

/// Retries with growing, jittered pauses until `retry_timeout` has passed since the first try.
fn retry(storage: &StorageConfig) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(5),
        base: 2.,
    };
    RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: storage.retry_timeout }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_looked_at_before_it_is_used() {
        let open = |endpoint: &str, allow_http| {
            let endpoint = Some(endpoint.to_owned());
            let storage = StorageConfig { endpoint, allow_http, path_style: true, ..Default::default() };
            let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name.into(), "x".into()));
            Store::open_in("s3://bucket", &storage, &keys)
        };
        assert!(open("http://127.0.0.1:1", true).is_ok());
        for (endpoint, says) in [
            ("http://127.0.0.1:1", "allow_http"),
            ("127.0.0.1:1", "not a URL"),
            ("https://user:hidden@host", "credentials"),
        ] {
            let error = open(endpoint, false).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_key_that_would_do_nothing_is_refused() {
        let open = |url: &str, storage: &StorageConfig| {
            let keys = [
                ("AWS_ACCESS_KEY_ID", "x"),
                ("AWS_SECRET_ACCESS_KEY", "x"),
                ("AZURE_STORAGE_ACCOUNT_NAME", "x"),
                ("AZURE_STORAGE_ACCOUNT_KEY", "eA=="),
            ];
            Store::open_in(url, storage, &keys.map(|(name, value)| (name.into(), value.into())))
        };
        let keyed = StorageConfig { kms_key: Some("hidden".into()), ..Default::default() };
        assert!(open("s3://bucket", &keyed).is_ok());
        for url in ["gs://bucket", "az://bucket"] {
            let error = open(url, &keyed).unwrap_err().to_string();
            assert!(error.contains("storage.kms_key") && !error.contains("hidden"), "{error}");
        }
        let tagged = StorageConfig { tags: [("a".into(), "b".into())].into(), ..Default::default() };
        assert!(open("s3://bucket", &tagged).is_ok() && open("az://bucket", &tagged).is_ok());
        assert!(open("gs://bucket", &tagged).unwrap_err().to_string().contains("storage.tags"));
    }

    #[test]
    fn missing_keys_are_told_at_once_where_no_machine_could_have_them() {
        let open = |endpoint: &str| {
            let storage =
                StorageConfig { endpoint: Some(endpoint.into()), path_style: true, ..Default::default() };
            Store::open_in("s3://bucket", &storage, &[])
        };
        let error = open("https://s3.example.org").unwrap_err();
        assert!(matches!(&error, Error::Refused { why, .. } if why.contains("AWS_ACCESS_KEY_ID")), "{error}");
        assert!(open("https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com").is_ok());
    }

    #[tokio::test]
    async fn a_machine_without_credentials_is_told_so() {
        // Where the instance service would be, nothing listens.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let environment = [("AWS_METADATA_ENDPOINT".to_owned(), format!("http://{closed}"))];
        let storage = StorageConfig { retry_timeout: Duration::ZERO, ..Default::default() };
        let store = Store::open_in("s3://bucket", &storage, &environment).unwrap();
        let error = store.get(&Key::new("object").unwrap()).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { why, .. } if why.contains("no credentials")), "{error}");
    }

    #[test]
    fn the_bucket_goes_into_the_host_s_name() {
        assert_eq!(
            with_bucket("https://s3.example.org:8443/", "b").unwrap(),
            "https://b.s3.example.org:8443"
        );
        assert!(with_bucket("https://127.0.0.1:1", "b").is_err());
    }
}
