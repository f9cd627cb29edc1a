// Node's `ws`, its handler in place. Run with NODE_PATH or from a folder that holds node_modules/ws.
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
server.on("connection", (ws) => {
  ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
});
