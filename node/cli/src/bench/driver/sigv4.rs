//! AWS Signature Version 4: what Garage wants every request to carry.
//!
//! The request's path and query are taken as they are sent: they must hold nothing that needs escaping, and the query's names must
//! be in order. The key of a day is derived once.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Signs requests to one service.
pub struct Signer {
    access_key: String,
    secret_key: String,
    region: String,
    service: &'static str,
    /// The day, and its key.
    derived: Mutex<(String, [u8; 32])>,
}

/// What is signed.
pub struct Signed<'a> {
    /// GET, PUT.
    pub method: &'a str,
    /// From the first slash.
    pub path: &'a str,
    /// After the question mark.
    pub query: &'a str,
    /// Names in lower case, in order; with `host` and `x-amz-date`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Of the body, in hexadecimal.
    pub payload_sha256: &'a str,
}

impl Signer {
    /// With the keys of an account.
    pub fn new(access_key: String, secret_key: String, region: String, service: &'static str) -> Self {
        Self { access_key, secret_key, region, service, derived: Mutex::default() }
    }

    /// The value of the header `authorization`, at `time` as in 20150830T123600Z.
    pub fn authorization(&self, request: &Signed<'_>, time: &str) -> String {
        let day = &time[..8];
        let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
        for (name, value) in request.headers {
            // Writing to a string cannot fail.
            let _ = writeln!(canonical, "{name}:{}", value.trim());
        }
        let _ = write!(canonical, "\n{names}\n{}", request.payload_sha256);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let signature = hex(&hmac(&self.key_of(day), text.as_bytes()));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", self.access_key)
    }

    fn key_of(&self, day: &str) -> [u8; 32] {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if derived.0 != day {
            let of_day = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day.as_bytes());
            let of_region = hmac(&of_day, self.region.as_bytes());
            let of_service = hmac(&of_region, self.service.as_bytes());
            *derived = (day.to_owned(), hmac(&of_service, b"aws4_request"));
        }
        derived.1
    }
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// SHA-256 in hexadecimal.
pub fn sha256_hex(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn signature(authorization: &str) -> &str {
        authorization.rsplit("Signature=").next().unwrap()
    }

    /// The cases `get-vanilla` and `get-vanilla-query-order-key-case` of AWS's test suite.
    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned();
        let signer = Signer::new("AKIDEXAMPLE".to_owned(), secret, "us-east-1".to_owned(), "service");
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let cases = [
            ("", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("Param1=value1&Param2=value2", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ];
        for (query, expected) in cases {
            let request = Signed { method: "GET", path: "/", query, headers: &headers, payload_sha256: EMPTY };
            let authorization = signer.authorization(&request, "20150830T123600Z");
            assert_eq!(signature(&authorization), expected);
            let beginning = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, ";
            assert!(authorization.starts_with(beginning), "{authorization}");
        }
    }

    /// The example of a GET in Amazon S3's documentation of the header-based signature.
    #[test]
    fn a_signature_covers_further_headers_and_the_body() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
        let signer = Signer::new("AKIAIOSFODNN7EXAMPLE".to_owned(), secret, "us-east-1".to_owned(), "s3");
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ];
        let request = Signed { method: "GET", path: "/test.txt", query: "", headers: &headers, payload_sha256: EMPTY };
        let authorization = signer.authorization(&request, "20130524T000000Z");
        assert_eq!(signature(&authorization), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        assert_eq!(sha256_hex(b""), EMPTY);
    }
}
