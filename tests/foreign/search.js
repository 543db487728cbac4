// A client in another language, from the .proto file alone. Reads one JSON object from stdin:
//   {proto, target, ca, key, calls: [{method, request}]}, and prints a list of {answer} or {code, details}.
// Vectors come as {rows, dim, data} with data in base64.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const asked = JSON.parse(readFileSync(0, "utf8"));
const definition = loader.loadSync(asked.proto, { keepCase: true, longs: String, enums: String });
const { SearchService } = grpc.loadPackageDefinition(definition).tartan.v1;
const credentials = asked.ca
  ? grpc.credentials.createSsl(readFileSync(asked.ca))
  : grpc.credentials.createInsecure();
const client = new SearchService(asked.target, credentials);
const metadata = new grpc.Metadata();
if (asked.key) metadata.set("authorization", `Bearer ${asked.key}`);

function call({ method, request }) {
  if (request.vectors) request.vectors.data = Buffer.from(request.vectors.data, "base64");
  const deadline = new Date(Date.now() + 30_000);
  return new Promise((resolve) => {
    client[method](request, metadata, { deadline }, (error, answer) => {
      resolve(error ? { code: error.code, details: error.details } : { answer });
    });
  });
}

const results = [];
for (const one of asked.calls) results.push(await call(one));
console.log(JSON.stringify(results));
client.close();
