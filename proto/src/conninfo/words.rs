//! The vocabulary: which words there are, and which variable stands in for each.

use super::ConnInfoError;

/// A connection keyword.
struct Word {
    name: &'static str,
    variable: Option<&'static str>,
    /// Set where the word is libpq's but not for us: why, and what to do.
    refused: Option<&'static str>,
}

const fn word(name: &'static str, variable: &'static str) -> Word {
    Word { name, variable: Some(variable), refused: None }
}

const fn text_only(name: &'static str) -> Word {
    Word { name, variable: None, refused: None }
}

const fn refused(name: &'static str, why: &'static str) -> Word {
    Word { name, variable: None, refused: Some(why) }
}

const KERBEROS: &str = "walkeep does not speak GSSAPI; use SCRAM or a client certificate";
const OAUTH: &str = "walkeep does not speak OAuth; use SCRAM or a client certificate";

const VOCABULARY: &[Word] = &[
    word("host", "PGHOST"),
    word("hostaddr", "PGHOSTADDR"),
    word("port", "PGPORT"),
    word("user", "PGUSER"),
    word("password", "PGPASSWORD"),
    word("dbname", "PGDATABASE"),
    word("application_name", "PGAPPNAME"),
    text_only("fallback_application_name"),
    word("passfile", "PGPASSFILE"),
    word("service", "PGSERVICE"),
    word("servicefile", "PGSERVICEFILE"),
    word("options", "PGOPTIONS"),
    word("client_encoding", "PGCLIENTENCODING"),
    word("connect_timeout", "PGCONNECT_TIMEOUT"),
    text_only("keepalives"),
    text_only("keepalives_idle"),
    text_only("keepalives_interval"),
    text_only("keepalives_count"),
    text_only("tcp_user_timeout"),
    word("target_session_attrs", "PGTARGETSESSIONATTRS"),
    word("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    word("sslmode", "PGSSLMODE"),
    word("sslnegotiation", "PGSSLNEGOTIATION"),
    word("sslrootcert", "PGSSLROOTCERT"),
    word("sslcert", "PGSSLCERT"),
    word("sslkey", "PGSSLKEY"),
    word("sslsni", "PGSSLSNI"),
    text_only("sslcompression"),
    word("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    word("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    word("channel_binding", "PGCHANNELBINDING"),
    word("require_auth", "PGREQUIREAUTH"),
    word("gssencmode", "PGGSSENCMODE"),
    refused("replication", "walkeep sets it itself; leave it out"),
    refused(
        "sslpassword",
        "encrypted private keys are not supported; store the key in clear with the mode 0600",
    ),
    refused("sslcrl", "revocation lists are not supported"),
    refused("sslcrldir", "revocation lists are not supported"),
    refused(
        "sslcertmode",
        "leave it out: a client certificate is sent if sslcert names one and the server asks",
    ),
    refused("sslkeylogfile", "walkeep never writes TLS keys to a file"),
    refused("requiressl", "write sslmode=require"),
    refused("requirepeer", "it is not supported; protect the socket's directory instead"),
    refused("min_protocol_version", "walkeep speaks version 3.0 only"),
    refused("max_protocol_version", "walkeep speaks version 3.0 only"),
    refused("scram_client_key", "give the password instead"),
    refused("scram_server_key", "give the password instead"),
    refused("krbsrvname", KERBEROS),
    refused("gsslib", KERBEROS),
    refused("gssdelegation", KERBEROS),
    refused("oauth_issuer", OAUTH),
    refused("oauth_client_id", OAUTH),
    refused("oauth_client_secret", OAUTH),
    refused("oauth_scope", OAUTH),
];

/// The vocabulary's own copy of `name`, if walkeep takes the word.
pub(super) fn known(name: &str) -> Result<&'static str, ConnInfoError> {
    if let Some(word) = VOCABULARY.iter().find(|word| word.name == name) {
        return match word.refused {
            None => Ok(word.name),
            Some(why) => Err(ConnInfoError::Unsupported { word: word.name, why }),
        };
    }
    Err(ConnInfoError::Unknown { word: name.chars().take(LONGEST).collect(), nearest: nearest(name) })
}

/// Characters of an unknown word that are looked at and repeated. A longer one is like no known word in any case: the
/// longest has 24, and two thirds must agree.
const LONGEST: usize = 40;

fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > LONGEST {
        return None;
    }
    let lower = name.to_lowercase();
    let taken = VOCABULARY.iter().filter(|word| word.refused.is_none());
    let distances = taken.map(|word| (strsim::damerau_levenshtein(word.name, &lower), word.name));
    let (distance, nearest) = distances.min()?;
    (distance <= name.len().div_ceil(3)).then_some(nearest)
}

/// Words and the variables that stand in for them.
pub(super) fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    VOCABULARY.iter().filter_map(|word| Some((word.name, word.variable?)))
}
