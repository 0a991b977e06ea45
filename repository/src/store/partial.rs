//! Stores that send the part that was asked for, and forget to say so in the status.
//!
//! HTTP wants 206 for a part, but `rclone serve s3` answers 200 with a right `Content-Range`. The header leaves no
//! doubt, and it is compared with the request later on; so the status is set right here.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Connects as usual.
#[derive(Debug, Default)]
pub(super) struct PartialConnector(ReqwestConnector);

impl HttpConnector for PartialConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(PartialService(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct PartialService(HttpClient);

#[async_trait]
impl HttpService for PartialService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_part = request.headers().contains_key("range");
        let mut response = self.0.execute(request).await?;
        let is_told = response.headers().contains_key("content-range");
        if is_part
            && is_told
            && response.status().as_u16() == 200
            && let Ok(partial) = 206_u16.try_into()
        {
            *response.status_mut() = partial;
        }
        Ok(response)
    }
}
