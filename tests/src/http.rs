//! One HTTP request, as plain as can be.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// 200, 404, …
    pub status: u16,
    /// By their names in lower case; of several the last one.
    pub headers: BTreeMap<String, String>,
    /// What came behind them.
    pub body: String,
}

/// Asks 127.0.0.1 with a method and headers.
pub fn ask(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut stream, method, path, headers, body)
}

/// The same over a connection that is there.
pub fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply> {
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    request += "Connection: close\r\n\r\n";
    stream.write_all((request + body).as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = reader.read_until(b'\n', &mut head)?;
        ensure!(read > 0, "the answer ends within its head");
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    // Not everybody closes a connection because that was asked for.
    let length = headers.get("content-length").filter(|_| method != "HEAD");
    let mut body = Vec::new();
    match length.map(|length| length.parse()).transpose()? {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        None => drop(reader.read_to_end(&mut body)?),
    }
    Ok(Reply { status, headers, body: String::from_utf8(body)? })
}

/// GET.
pub fn get(port: u16, path: &str) -> Result<Reply> {
    ask("GET", port, path, &[], "")
}

/// The samples of an answer in Prometheus' text format, by name and labels.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}
