//! From the arguments to a client: which endpoints, which deadline.

use dynamo_client::{Client, ClientConfig, Mode};

use crate::arguments::Connection;
use crate::local;
use crate::stop::Stop;

/// Where a node listens if nobody said otherwise.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:7400";

/// The endpoints that were given, else those of the cluster that `local up` runs, else the default.
pub fn endpoints(connection: &Connection) -> Vec<String> {
    if !connection.endpoints.is_empty() {
        return connection.endpoints.clone();
    }
    let running = local::running_endpoints();
    if running.is_empty() { vec![ENDPOINT_DEFAULT.to_owned()] } else { running }
}

/// A client that has learned the ring.
pub async fn client(connection: &Connection, mode: Mode) -> Result<Client, Stop> {
    let config = ClientConfig {
        mode,
        direct: !connection.through_endpoint,
        request_timeout: connection.timeout(),
        ..ClientConfig::new(endpoints(connection))
    };
    Ok(Client::connect(config).await?)
}
