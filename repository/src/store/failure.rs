//! From an object store's errors to ours: the one place that decides what "absent" means.

use std::error::Error as StdError;
use std::io::ErrorKind;

use crate::Error;

/// Text of an answer that is carried into a message.
const LONGEST: usize = 300;

/// What `error`, met on `what`, means. `what` is the store and the key, for the message.
pub(super) fn classify(what: &str, error: &object_store::Error) -> Error {
    let what = what.to_owned();
    let text = error.to_string();
    // A missing bucket also answers 404. It says nothing about an object, so it is never "absent".
    if ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|mark| text.contains(mark)) {
        return Error::Refused { what, why: "the bucket does not exist".into() };
    }
    match error {
        object_store::Error::NotFound { .. } => Error::Absent { what },
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Error::Refused { what, why: format!("access was denied{}", with_comma(answer(&text).as_deref())) }
        }
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            Error::Refused { what, why: format!("this store cannot do it: {}", innermost(error)) }
        }
        object_store::Error::UnknownConfigurationKey { .. } | object_store::Error::InvalidPath { .. } => {
            Error::Invalid { what, why: innermost(error) }
        }
        _ => undecided(what, error, &text),
    }
}

fn undecided(what: String, error: &object_store::Error, text: &str) -> Error {
    // The operating system's own refusals, from a directory; a network's failures have other kinds.
    if let Some(
        ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory,
    ) = io_kind(error)
        && status(text).is_none()
    {
        return Error::Refused { what, why: innermost(error) };
    }
    // Where no other credentials are set, the provider's instance service is asked as the last resort.
    let instance_services =
        ["/latest/api/token", "/latest/meta-data", "metadata.google.internal", "/metadata/identity"];
    if instance_services.iter().any(|address| text.contains(address)) {
        let why = "there are no credentials in the environment, and this machine has no instance credentials";
        return Error::Refused { what, why: why.into() };
    }
    if text.contains("without LOCATION") {
        let why = "the store sent a redirect without an address: `region` or `endpoint` is probably wrong";
        return Error::Refused { what, why: why.into() };
    }
    if text.contains("non-partial response") {
        let why = "the store sent a whole object where a part of it was asked for; a repository needs a store that \
                   reads parts";
        return Error::Refused { what, why: why.into() };
    }
    // The client's own verdict on an answer that came.
    if innermost(error).contains("Wanted range starting at") {
        return Error::Refused { what, why: innermost(error) };
    }
    match status(text) {
        // The store understood, and will say the same next time.
        Some(status @ 400..=499) if ![408, 409, 425, 429].contains(&status) => {
            let why = format!("the store answered {status}{}", with_comma(answer(text).as_deref()));
            Error::Refused { what, why }
        }
        Some(status) => {
            let why = format!("the store answered {status}{}", with_comma(answer(text).as_deref()));
            Error::Unreachable { what, why }
        }
        None => Error::Unreachable { what, why: innermost(error) },
    }
}

fn with_comma(text: Option<&str>) -> String {
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

/// The HTTP status that the store gave, if it gave one.
pub(super) fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.rsplit_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What the store said in the body of its answer: code and message out of the XML.
fn answer(text: &str) -> Option<String> {
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => Some(shortened(&format!("{code}, {message}"))),
        (Some(code), None) => Some(shortened(code)),
        _ => None,
    }
}

fn io_kind(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    chain(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind).last()
}

/// The first cause: short, and free of what every layer above adds.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let text = chain(error).last().map(ToString::to_string).unwrap_or_default();
    shortened(&text)
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    fn not_found(text: &str) -> object_store::Error {
        object_store::Error::NotFound { path: "a".into(), source: text.into() }
    }

    #[test]
    fn only_a_missing_object_is_absent() {
        let object = not_found("non-2xx status code: 404 Not Found: <Code>NoSuchKey</Code>");
        assert!(classify("x", &object).is_absent());
        let bucket = not_found("non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>");
        assert!(matches!(classify("x", &bucket), Error::Refused { .. }));
    }

    #[test]
    fn a_server_s_trouble_is_no_refusal() {
        for status in ["500 Internal", "503 Slow Down", "429 Too Many", "408 Timeout"] {
            assert!(classify("x", &generic(&format!("non-2xx status code: {status}: "))).is_transient());
        }
        for status in ["400 Bad Request", "405 Not Allowed", "416 Range"] {
            let error = classify("x", &generic(&format!("non-2xx status code: {status}: ")));
            assert!(matches!(error, Error::Refused { .. }), "{error}");
        }
    }

    #[test]
    fn a_store_that_reads_no_parts_is_no_outage() {
        let error = classify("x", &generic("Received non-partial response when range requested"));
        assert!(matches!(&error, Error::Refused { why, .. } if why.contains("part")), "{error}");
    }

    #[test]
    fn a_range_behind_the_end_is_no_outage() {
        let error = generic("Wanted range starting at 10000, but object was only 10000 bytes long");
        assert!(matches!(classify("x", &error), Error::Refused { .. }));
    }

    #[test]
    fn a_full_disk_is_said_so() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let error = object_store::Error::Generic { store: "LocalFileSystem", source: full.into() };
        let Error::Refused { why, .. } = classify("file:///x", &error) else { panic!("{error}") };
        assert!(why.contains("no storage space"), "{why}");
    }

    #[test]
    fn an_answer_is_told_in_one_line() {
        let body =
            "<Error><Code>SignatureDoesNotMatch</Code>\n<Message>The  signature\nis wrong</Message></Error>";
        let error = object_store::Error::PermissionDenied {
            path: "a".into(),
            source: format!("non-2xx status code: 403 Forbidden: {body}").into(),
        };
        assert_eq!(
            classify("s3://b", &error).to_string(),
            "s3://b: access was denied: SignatureDoesNotMatch, The signature is wrong"
        );
    }
}
