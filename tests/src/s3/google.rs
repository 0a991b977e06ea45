//! The same server for clients of Google's storage.
//!
//! Google's XML interface asks and answers as S3 does; what differs is how a client proves who it is: by a bearer
//! token that it has signed with its service account's key. Whose token it is, and under which key it was signed, is
//! looked at here; the signature itself is not.

use std::io;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, StatusCode};

/// The account's name.
const EMAIL: &str = "harness@example.iam.gserviceaccount.com";
/// The name of the key that the account is known by.
pub const KEY_ID: &str = "harness-key";

/// Whether the machine has what makes a key.
pub fn can_make_keys() -> bool {
    Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success())
}

/// A service account's key file, as Google's console gives it out.
pub fn service_account() -> Result<String> {
    static KEY: OnceLock<io::Result<String>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let made = Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .output()?;
        Ok(String::from_utf8_lossy(&made.stdout).into_owned())
    });
    let key = key.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()));
    let key = key.context("cannot run openssl")?;
    ensure!(key.contains("PRIVATE KEY"), "openssl made no key");
    let account = serde_json::json!({
        "type": "service_account",
        "client_email": EMAIL,
        "private_key_id": KEY_ID,
        "private_key": key,
    });
    Ok(account.to_string())
}

/// Lets a request in whose token is the account's, or says with what it is turned away. The token is taken off:
/// the server behind would take it for a signature of its own kind.
pub(super) fn admit(headers: &mut HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let token = headers.remove(AUTHORIZATION).ok_or((StatusCode::FORBIDDEN, "AccessDenied"))?;
    let is_ours = || {
        let mut parts = token.to_str().ok()?.strip_prefix("Bearer ")?.split('.');
        let mut json = || serde_json::from_slice::<serde_json::Value>(&decode(parts.next()?)?).ok();
        let (header, claims) = (json()?, json()?);
        Some(header["kid"] == KEY_ID && claims["iss"] == EMAIL && parts.next().is_some())
    };
    if is_ours() == Some(true) { Ok(()) } else { Err((StatusCode::UNAUTHORIZED, "AuthenticationRequired")) }
}

/// Base64 for URLs, without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}
