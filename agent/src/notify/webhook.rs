//! The webhook: an event is posted.

use std::time::Duration;

use reqwest::{Client, StatusCode, header, redirect};

use crate::backoff::Backoff;

/// How often it is tried.
const TRIES: usize = 4;

/// The first and the longest wait between tries.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// Posts the event; tried again where that may help.
///
/// # Errors
/// Nobody took it; in words, and without the URL, which may hold a secret.
pub(super) async fn post(url: &str, event: &str, patience: Duration) -> Result<(), String> {
    post_with(url, event, patience, Backoff::new(WAITS.0, WAITS.1)).await
}

async fn post_with(url: &str, event: &str, patience: Duration, mut backoff: Backoff) -> Result<(), String> {
    let client = Client::builder()
        .timeout(patience)
        .connect_timeout(patience)
        // An event is for the one that is named.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("walkeep/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("the webhook cannot be called: {}", cause(error)))?;
    let mut tries = 0;
    loop {
        tries += 1;
        let request =
            client.post(url).header(header::CONTENT_TYPE, "application/json").body(event.to_owned());
        let (why, is_final) = match request.send().await {
            Ok(response) if response.status().is_success() => return Ok(()),
            Ok(response) => {
                let status = response.status();
                let again = status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
                (format!("the webhook answered {status}"), !again)
            }
            Err(error) => {
                let is_final = error.is_builder();
                (format!("the webhook does not answer: {}", cause(error)), is_final)
            }
        };
        if is_final || tries == TRIES {
            return Err(format!("{why}, after {tries} tries"));
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// The innermost cause: the outer ones say no more than that something failed.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn quick() -> Backoff {
        Backoff::new(Duration::from_millis(1), Duration::from_millis(2))
    }

    /// Answers one request after the other with these status lines; what was asked for.
    async fn receiver(answers: &'static [&'static str]) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=HIDDEN", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}\n") {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is cut off");
                }
                requests.push(String::from_utf8(request).unwrap());
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (url, task)
    }

    #[tokio::test]
    async fn an_event_is_posted_and_tried_again() {
        let (url, task) = receiver(&["503 Busy", "429 Slowly", "204 No Content"]).await;
        post_with(&url, "{\"event\":\"gap\"}\n", PATIENCE, quick()).await.unwrap();
        let requests = task.await.unwrap();
        assert_eq!(requests.len(), 3);
        for request in requests {
            let request = request.to_ascii_lowercase();
            assert!(request.starts_with("post /hook?token=hidden http/1.1\r\n"), "{request}");
            assert!(request.contains("content-type: application/json\r\n"), "{request}");
            assert!(request.ends_with("\r\n\r\n{\"event\":\"gap\"}\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_the_url_is_not_told() {
        let (url, task) = receiver(&["404 Not Found"]).await;
        let error = post_with(&url, "{}\n", PATIENCE, quick()).await.unwrap_err();
        assert!(
            error.contains("404") && error.contains("after 1 tries") && !error.contains("HIDDEN"),
            "{error}"
        );
        task.await.unwrap();
        // Nobody listens there any more.
        let error = post_with(&url, "{}\n", PATIENCE, quick()).await.unwrap_err();
        assert!(error.contains("after 4 tries") && !error.contains("HIDDEN"), "{error}");
    }
}
