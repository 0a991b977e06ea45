//! Proving who we are, and that the server knows our password too.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::connection::{Connection, Incoming, server_error};
use super::{Error, Result};
use crate::conninfo::{AuthMethod, ChannelBinding, Password, RequireAuth};

/// What authentication may use and must respect.
pub(super) struct Credentials<'a> {
    pub(super) user: &'a str,
    pub(super) password: Option<&'a Password>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) require_auth: &'a RequireAuth,
    pub(super) channel: Channel,
}

/// What the connection runs over, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Channel {
    /// In clear.
    Plain,
    /// TLS.
    Tls {
        /// The digest of the server's certificate; `None` if its kind of signature has none (Ed25519).
        server_end_point: Option<Vec<u8>>,
    },
}

/// Answers what the server asks until it has accepted us.
pub(super) async fn authenticate(connection: &mut Connection, credentials: &Credentials<'_>) -> Result<()> {
    match next(connection).await? {
        Message::AuthenticationOk => return accept(connection, credentials, AuthMethod::None),
        Message::AuthenticationCleartextPassword => {
            accept(connection, credentials, AuthMethod::Password)?;
            let password = password(connection, credentials)?;
            connection.send_password(password.reveal()).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            accept(connection, credentials, AuthMethod::Md5)?;
            let password = password(connection, credentials)?;
            let answer = md5_hash(credentials.user.as_bytes(), password.reveal(), body.salt());
            connection.send_password(answer.as_bytes()).await?;
        }
        Message::AuthenticationSasl(body) => scram(connection, credentials, &body).await?,
        Message::AuthenticationGss | Message::AuthenticationKerberosV5 => {
            return Err(refuse(connection, "the server asks for GSSAPI, which walkeep does not speak"));
        }
        Message::AuthenticationSspi => {
            return Err(refuse(connection, "the server asks for SSPI, which walkeep does not speak"));
        }
        _ => return Err(connection.unexpected("a message that is not part of authentication")),
    }
    match next(connection).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(connection.unexpected("more questions after authentication")),
    }
}

/// The next message that matters; the server's refusal as an error.
async fn next(connection: &mut Connection) -> Result<Message> {
    loop {
        match connection.receive().await? {
            Incoming::Message(Message::ErrorResponse(body)) => return Err(server_error(&body)),
            Incoming::Message(Message::NoticeResponse(_)) => {}
            Incoming::Message(message) => return Ok(message),
            Incoming::CopyBoth => return Err(connection.unexpected("CopyBothResponse")),
        }
    }
}

fn refuse(connection: &Connection, why: impl Into<String>) -> Error {
    Error::Authentication { host: connection.host().to_owned(), why: why.into() }
}

/// Whether the connection string lets the server do with `method`, which does not bind the channel.
fn accept(connection: &Connection, credentials: &Credentials<'_>, method: AuthMethod) -> Result<()> {
    if !credentials.require_auth.accepts(method) {
        let what = match method {
            AuthMethod::None => "the server lets us in without authentication".to_owned(),
            method => format!("the server asks for the method {method}"),
        };
        return Err(refuse(connection, format!("{what}, which require_auth does not allow")));
    }
    if credentials.channel_binding == ChannelBinding::Require && method != AuthMethod::ScramSha256 {
        let why = "channel_binding=require needs SCRAM over TLS, but the server does not use it";
        return Err(refuse(connection, why));
    }
    Ok(())
}

fn password<'a>(connection: &Connection, credentials: &Credentials<'a>) -> Result<&'a Password> {
    let missing = "the server asks for a password, and there is none for this host, database and user";
    credentials.password.ok_or_else(|| refuse(connection, missing))
}

/// SCRAM, up to and including the check of the server's signature.
async fn scram(
    connection: &mut Connection,
    credentials: &Credentials<'_>,
    body: &AuthenticationSaslBody,
) -> Result<()> {
    accept(connection, credentials, AuthMethod::ScramSha256)?;
    let mut offered: Vec<String> = Vec::new();
    let mut mechanisms = body.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(|error| connection.unexpected(error.to_string()))? {
        offered.push(mechanism.to_owned());
    }
    let choice = choose(&offered, credentials.channel_binding, &credentials.channel);
    let (mechanism, binding) = choice.map_err(|why| refuse(connection, why))?;

    let password = password(connection, credentials)?;
    let mut scram = ScramSha256::new(password.reveal(), binding);
    connection.queue(|buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer))?;
    connection.flush().await?;
    let Message::AuthenticationSaslContinue(body) = next(connection).await? else {
        return Err(connection.unexpected("an answer that does not continue SCRAM"));
    };
    scram.update(body.data()).map_err(|error| refuse(connection, format!("SCRAM failed: {error}")))?;
    connection.queue(|buffer| frontend::sasl_response(scram.message(), buffer))?;
    connection.flush().await?;
    let Message::AuthenticationSaslFinal(body) = next(connection).await? else {
        return Err(connection.unexpected("an answer that does not end SCRAM"));
    };
    // Only who knows the password (or its verifier) can sign: an impostor ends here, before its "ok" counts.
    scram.finish(body.data()).map_err(|error| {
        refuse(connection, format!("the server cannot prove that it knows the password: {error}"))
    })
}

/// Which of the offered mechanisms is used, and how it is bound to the channel.
fn choose(
    offered: &[String],
    policy: ChannelBinding,
    channel: &Channel,
) -> Result<(&'static str, Binding), String> {
    let offers = |mechanism: &str| offered.iter().any(|offer| offer == mechanism);
    let (plus, plain) = (offers(SCRAM_SHA_256_PLUS), offers(SCRAM_SHA_256));
    let end_point = match channel {
        Channel::Plain if plus => {
            return Err("the server offers channel binding on a connection without TLS".to_owned());
        }
        Channel::Plain => None,
        Channel::Tls { server_end_point } => server_end_point.clone(),
    };
    let end_point = end_point.filter(|_| policy != ChannelBinding::Disable);
    match end_point {
        Some(digest) if plus => Ok((SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(digest))),
        _ if policy == ChannelBinding::Require => Err(
            "channel_binding=require, but the channel cannot be bound: it needs TLS, a server that offers \
                 SCRAM-SHA-256-PLUS, and a certificate whose signature has a digest"
                .to_owned(),
        ),
        // Said so that a server which did offer it notices that somebody removed the offer.
        Some(_) if plain => Ok((SCRAM_SHA_256, Binding::unrequested())),
        None if plain => Ok((SCRAM_SHA_256, Binding::unsupported())),
        _ => Err(format!(
            "the server offers only {}, and walkeep speaks only {} and {}",
            offered.join(", "),
            sasl::SCRAM_SHA_256,
            sasl::SCRAM_SHA_256_PLUS
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(offered: &[&str], policy: ChannelBinding, channel: &Channel) -> Result<&'static str, String> {
        let offered: Vec<_> = offered.iter().map(|offer| (*offer).to_owned()).collect();
        choose(&offered, policy, channel).map(|(mechanism, _)| mechanism)
    }

    #[test]
    fn the_channel_is_bound_wherever_it_can_be() {
        let tls = Channel::Tls { server_end_point: Some(vec![1]) };
        let ed25519 = Channel::Tls { server_end_point: None };
        let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        let prefer = ChannelBinding::Prefer;
        assert_eq!(chosen(&both, prefer, &tls), Ok(SCRAM_SHA_256_PLUS));
        assert_eq!(chosen(&both, ChannelBinding::Disable, &tls), Ok(SCRAM_SHA_256));
        assert_eq!(chosen(&both, prefer, &ed25519), Ok(SCRAM_SHA_256));
        assert_eq!(chosen(&[SCRAM_SHA_256], prefer, &tls), Ok(SCRAM_SHA_256));
        assert_eq!(chosen(&[SCRAM_SHA_256], prefer, &Channel::Plain), Ok(SCRAM_SHA_256));
    }

    #[test]
    fn what_is_not_safe_or_not_known_is_refused() {
        let tls = Channel::Tls { server_end_point: Some(vec![1]) };
        let ed25519 = Channel::Tls { server_end_point: None };
        let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        let (prefer, require) = (ChannelBinding::Prefer, ChannelBinding::Require);
        assert!(chosen(&both, prefer, &Channel::Plain).is_err());
        assert!(chosen(&[SCRAM_SHA_256], require, &tls).is_err());
        assert!(chosen(&both, require, &ed25519).is_err());
        assert!(chosen(&[SCRAM_SHA_256], require, &Channel::Plain).is_err());
        assert!(chosen(&["OAUTHBEARER"], prefer, &tls).unwrap_err().contains("OAUTHBEARER"));
    }
}
