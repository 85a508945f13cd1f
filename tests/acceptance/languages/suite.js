// What Google's client for Node sees of the emulator. Prints one object in JSON.
//
//     node suite.js TRANSPORT VERSION HOST PORT URL
//
// TRANSPORT is grpc or rest, VERSION is v2 or v2beta3, URL is a handler to call.

const {GoogleAuth, PassThroughClient} = require('google-auth-library');
const {grpc} = require('google-gax');
const tasks = require('@google-cloud/tasks');

const [transport, version, host, port, url] = process.argv.slice(2);
const client = new tasks[version].CloudTasksClient({
  apiEndpoint: host,
  port: Number(port),
  auth: new GoogleAuth({projectId: 'p', authClient: new PassThroughClient()}),
  ...(transport === 'grpc'
    ? {sslCreds: grpc.credentials.createInsecure()}
    : {fallback: true, protocol: 'http'}),
});
const location = 'projects/p/locations/l';
const queue = `${location}/queues/${transport}-${version}`;
const seconds = Math.floor(Date.now() / 1000) + 3600;

// The code of an error: over REST, that of HTTP.
async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return error.code;
  }
  return null;
}

async function queues(seen) {
  const [made] = await client.createQueue({
    parent: location,
    queue: {name: queue, retryConfig: {maxAttempts: 3}},
  });
  seen.defaults = made.retryConfig.maxDoublings;
  seen.again = await refusal(() =>
    client.createQueue({parent: location, queue: {name: queue}})
  );
  const [changed] = await client.updateQueue({
    queue: {name: queue, rateLimits: {maxConcurrentDispatches: 7}},
    updateMask: {paths: ['rate_limits.max_concurrent_dispatches']},
  });
  seen.changed = [
    changed.rateLimits.maxConcurrentDispatches,
    changed.retryConfig.maxAttempts,
  ];
  const [paused] = await client.pauseQueue({name: queue});
  seen.state = paused.state;
  seen.listed = [];
  for await (const each of client.listQueuesAsync({parent: location, pageSize: 1})) {
    seen.listed.push(each.name);
  }
}

async function create(seen) {
  const [http] = await client.createTask({
    parent: queue,
    task: {
      name: `${queue}/tasks/one`,
      scheduleTime: {seconds},
      httpRequest: {url, body: Buffer.from('hällo'), headers: {'X-Own': 'yes'}},
    },
  });
  seen.basic = http.httpRequest.body.toString();
  seen.headers = http.httpRequest.headers;
  const [full] = await client.getTask({name: http.name, responseView: 'FULL'});
  seen.body = full.httpRequest.body.toString();
  seen.method = full.httpRequest.httpMethod;
  seen.scheduled = Number(full.scheduleTime.seconds) === seconds;
  const [engine] = await client.createTask({
    parent: queue,
    task: {appEngineHttpRequest: {relativeUri: '/later'}, scheduleTime: {seconds}},
  });
  seen.host = engine.appEngineHttpRequest.appEngineRouting.host;
  seen.taken = await refusal(() =>
    client.createTask({parent: queue, task: {name: http.name, httpRequest: {url}}})
  );
  seen.invalid = await refusal(() =>
    client.createTask({parent: queue, task: {httpRequest: {url: 'ftp://h/'}}})
  );
  const [listed] = await client.listTasks({parent: queue});
  seen.tasks = listed.length;
  await client.deleteTask({name: engine.name});
  seen.gone = await refusal(() => client.getTask({name: engine.name}));
}

async function more(seen) {
  if (version !== 'v2beta3') {
    return;
  }
  const [operation] = await client.batchCreateTasks({
    parent: queue,
    requests: [url, 'ftp://h/'].map(each => ({
      parent: queue,
      task: {httpRequest: {url: each}, scheduleTime: {seconds}},
    })),
  });
  const [made] = await operation.promise();
  seen.batch = made.tasks.length;
  const [counted] = await client.getQueue({name: queue, readMask: {paths: ['stats']}});
  seen.count = Number(counted.stats.tasksCount);
}

async function main() {
  const seen = {};
  await queues(seen);
  await create(seen);
  await more(seen);
  await client.runTask({name: `${queue}/tasks/one`});
  await client.close();
  console.log(JSON.stringify(seen));
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
