//! From a path to an answer, and who may have it.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::settings::Token;
use super::watched::Watching;
use super::{exposition, metrics, page, ready};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Whom to ask, and who may.
pub(super) struct Routes {
    pub(super) token: Option<Token>,
    pub(super) watching: Arc<OnceLock<Watching>>,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Page,
    Metrics,
    Status,
    Health,
    Ready,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/metrics" => Self::Metrics,
            "/status.json" => Self::Status,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            _ => return None,
        })
    }

    /// Whether whoever looks after processes may ask without a token. Such an answer holds one word.
    fn is_probe(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }
}

/// An answer before it has its headers.
struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: impl Into<String>) -> Self {
        Self { status, kind, body: body.into(), headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}

impl Routes {
    /// Answers a request. Its body, if it has one, is not read.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let answer = self.decide(request).await;
        let length = answer.body.len();
        let body = if request.method() == Method::HEAD { String::new() } else { answer.body };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ] {
            if answer.headers.iter().all(|(given, _)| *given != name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        for (name, value) in answer.headers {
            headers.append(name, value);
        }
        response
    }

    async fn decide<B>(&self, request: &Request<B>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let words = "only GET and HEAD are answered: nothing can be changed here\n";
            return Answer::new(StatusCode::METHOD_NOT_ALLOWED, TEXT, words).with(header::ALLOW, "GET, HEAD");
        }
        let route = Route::of(request.uri().path());
        let trusted = match &self.token {
            Some(token) => {
                let given = request.headers().get(header::AUTHORIZATION);
                given.and_then(|value| value.to_str().ok()).is_some_and(|value| token.is_in(value))
            }
            None => true,
        };
        if !trusted && !route.is_some_and(Route::is_probe) {
            let words = "a token is asked for: `Authorization: Bearer …`, or the password of any user\n";
            return Answer::new(StatusCode::UNAUTHORIZED, TEXT, words)
                .with(header::WWW_AUTHENTICATE, "Bearer realm=\"walkeep\"")
                .with(header::WWW_AUTHENTICATE, "Basic realm=\"walkeep\", charset=\"UTF-8\"");
        }
        if self.token.is_none() && !is_local(request.headers()) {
            let words = "this name is not answered to without a token: ask for localhost or the address, or set \
                         `http.token_file`\n";
            return Answer::new(StatusCode::MISDIRECTED_REQUEST, TEXT, words);
        }
        match route {
            Some(route) => self.serve(route, trusted).await,
            None => Answer::new(
                StatusCode::NOT_FOUND,
                TEXT,
                "there is /, /metrics, /status.json, /healthz and /readyz\n",
            ),
        }
    }

    async fn serve(&self, route: Route, trusted: bool) -> Answer {
        if route == Route::Health {
            return Answer::new(StatusCode::OK, TEXT, "alive\n");
        }
        let Some(watching) = self.watching.get() else {
            let words = if trusted { "not ready: waiting for the repository\n" } else { "not ready\n" };
            return Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, words);
        };
        match route {
            Route::Status => Answer::new(StatusCode::OK, JSON, watching.status_json().await + "\n"),
            Route::Metrics => {
                Answer::new(StatusCode::OK, exposition::CONTENT_TYPE, metrics::text(&watching.facts()))
            }
            Route::Page => {
                let page = page::of(&watching.facts());
                let mut answer = Answer::new(StatusCode::OK, HTML, page.html);
                // Made of hexadecimal digits and fixed words.
                if let Ok(policy) = HeaderValue::from_str(&page.policy) {
                    answer.headers.push((header::CONTENT_SECURITY_POLICY, policy));
                }
                answer
            }
            Route::Ready | Route::Health => {
                let reasons = ready::reasons(&watching.facts());
                if reasons.is_empty() {
                    return Answer::new(StatusCode::OK, TEXT, "ready\n");
                }
                let told: String = reasons.iter().map(|reason| format!("  {reason}\n")).collect();
                let words = if trusted { format!("not ready\n{told}") } else { "not ready\n".to_owned() };
                Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, words)
            }
        }
    }
}

/// Whether the request was meant for this machine. A page elsewhere can have its own name resolved to 127.0.0.1, and let a
/// browser on this machine read what is here; but the browser then tells that name.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn routes(token: Option<&str>) -> Routes {
        let token = token.map(|text| Token::new(text).unwrap());
        Routes { token, watching: Arc::default() }
    }

    const TOKEN: &str = "0123456789abcdef";

    #[tokio::test]
    async fn only_reading_is_answered() {
        let routes = routes(None);
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
            let path = if method == "CONNECT" { "localhost:1" } else { "/" };
            let response = routes.answer(&request(method, path, &[])).await;
            assert_eq!(response.status(), 405, "{method}");
            assert_eq!(response.headers()["allow"], "GET, HEAD");
        }
        for (method, path, status) in
            [("GET", "/healthz", 200), ("HEAD", "/healthz", 200), ("GET", "/readyz", 503), ("GET", "/x", 404)]
        {
            let response = routes.answer(&request(method, path, &[])).await;
            assert_eq!(response.status(), status, "{method} {path}");
            assert_eq!(response.headers()["cache-control"], "no-store");
        }
    }

    #[tokio::test]
    async fn without_the_token_there_is_nothing_but_the_probes() {
        let routes = routes(Some(TOKEN));
        let right = format!("Bearer {TOKEN}");
        let wrong = format!("Bearer {TOKEN}x");
        for path in ["/", "/metrics", "/status.json", "/none"] {
            for headers in [&[][..], &[("authorization", wrong.as_str())]] {
                let response = routes.answer(&request("GET", path, headers)).await;
                assert_eq!(response.status(), 401, "{path}");
                assert_eq!(response.headers().get_all("www-authenticate").iter().count(), 2);
            }
            let response = routes.answer(&request("GET", path, &[("authorization", &right)])).await;
            assert_ne!(response.status(), 401, "{path}");
        }
        assert_eq!(routes.answer(&request("GET", "/healthz", &[])).await.status(), 200);
        assert_eq!(routes.answer(&request("GET", "/readyz", &[])).await.status(), 503);
    }

    #[tokio::test]
    async fn a_foreign_name_is_not_answered_to_without_a_token() {
        for (host, status) in [
            ("localhost:9187", 200),
            ("127.0.0.1:9187", 200),
            ("[::1]:9187", 200),
            ("LOCALHOST", 200),
            ("evil.example:9187", 421),
            ("localhost.evil.example", 421),
        ] {
            let response = routes(None).answer(&request("GET", "/healthz", &[("host", host)])).await;
            assert_eq!(response.status(), status, "{host}");
            let with_token = routes(Some(TOKEN)).answer(&request("GET", "/healthz", &[("host", host)])).await;
            assert_eq!(with_token.status(), 200, "{host}");
        }
    }
}
