//! Who gets in: pg_hba.conf, and whether passwords and data go through the network in clear.

use restore::conf::identifier;

use super::super::hba::HbaLine;
use super::super::observed::{Observed, Server};
use super::set;
use crate::finding::Finding;

/// Addresses by which a server is only reached from its own machine.
const OWN: [&str; 4] = ["localhost", "127.0.0.1", "::1", ""];

pub(super) fn server_tls(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "server_tls";
    let addresses = server.setting("listen_addresses");
    let is_open = addresses.split(',').any(|address| !OWN.contains(&address.trim()));
    Some(match (is_open, server.is_on("ssl")) {
        (_, true) => Finding::ok(CODE, "the server speaks TLS"),
        (false, false) => Finding::ok(CODE, "the server is only reached from its own machine"),
        (true, false) => Finding::warning(
            CODE,
            format!(
                "ssl is off, and the server listens on {addresses}: what its clients send and get goes through the network in clear"
            ),
            format!("{}\n-- with ssl_cert_file and ssl_key_file in place", set("ssl", "on")),
        ),
    })
}

/// Whether pg_hba.conf can be judged at all, and is as the server wants it.
pub(super) fn readable(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "pg_hba";
    let Some(lines) = &server.hba else {
        let role = identifier(&server.role);
        return Some(Finding::warning(
            CODE,
            format!(
                "the role {role} may not see pg_hba.conf, so nobody looks who gets in without a password"
            ),
            format!(
                "GRANT SELECT ON pg_hba_file_rules TO {role};\n\
                 GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO {role};"
            ),
        ));
    };
    let wrong: Vec<String> = lines
        .iter()
        .filter_map(|line| Some(format!("line {}: {}", line.number, line.error.as_ref()?)))
        .collect();
    Some(match wrong.is_empty() {
        true => Finding::ok(CODE, "pg_hba.conf can be read"),
        false => Finding::warning(
            CODE,
            format!(
                "pg_hba.conf has lines that do not count, and one that is wrong keeps the server from reading it anew: {}",
                wrong.join("; ")
            ),
            "correct it, then: SELECT pg_reload_conf();",
        ),
    })
}

pub(super) fn trust(_: &Observed, server: &Server) -> Option<Finding> {
    let trusts = |line: &&HbaLine| line.method == "trust";
    let told = "anybody who comes that way is whoever he says he is, the superuser too";
    judge("pg_hba_trust", server, trusts, told, |line| {
        let method = if line.kind == "local" { "peer" } else { "scram-sha-256" };
        HbaLine { method: method.to_owned(), ..line.clone() }
    })
}

pub(super) fn weak(_: &Observed, server: &Server) -> Option<Finding> {
    let is_weak = |line: &&HbaLine| matches!(line.method.as_str(), "md5" | "password");
    let told = "passwords can be read, or found out, by whoever listens; before that: password_encryption, and each password \
                set anew";
    judge("pg_hba_md5", server, is_weak, told, |line| HbaLine {
        method: "scram-sha-256".to_owned(),
        ..line.clone()
    })
}

pub(super) fn wide(_: &Observed, server: &Server) -> Option<Finding> {
    let told = "the whole world may try passwords; name the networks that have business there";
    let is_wide = |line: &&HbaLine| line.is_wide() && line.method != "reject";
    // Without TLS no line that asks for it ever counts.
    let kind = if server.is_on("ssl") { "hostssl" } else { "host" };
    judge("pg_hba_address", server, is_wide, told, |line| HbaLine {
        kind: kind.to_owned(),
        address: Some("10.0.0.0/8".to_owned()),
        ..line.clone()
    })
}

/// The lines that `is_bad` finds, and what each should be.
fn judge(
    code: &'static str,
    server: &Server,
    is_bad: impl Fn(&&HbaLine) -> bool,
    told: &str,
    better: impl Fn(&HbaLine) -> HbaLine,
) -> Option<Finding> {
    let bad: Vec<&HbaLine> =
        server.hba.as_ref()?.iter().filter(|line| line.error.is_none()).filter(is_bad).collect();
    if bad.is_empty() {
        return Some(Finding::ok(code, "no line of pg_hba.conf is of that kind"));
    }
    let lines: Vec<String> =
        bad.iter().map(|line| format!("line {} ({})", line.number, line.text())).collect();
    let fix: Vec<String> = bad
        .iter()
        .map(|line| {
            format!(
                "# pg_hba.conf, instead of line {}; then SELECT pg_reload_conf():\n{}",
                line.number,
                better(line).text()
            )
        })
        .collect();
    Some(Finding::warning(code, format!("pg_hba.conf, {}: {told}", lines.join(", ")), fix.join("\n")))
}
