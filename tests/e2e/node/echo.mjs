// A client of Node's ws: sends what must come back, tells in JSON what did.
// node echo.mjs MODULES_DIR URL DEFLATE(on|off)
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , modules, url, deflate] = process.argv;
const WebSocket = createRequire(pathToFileURL(modules + "/"))("ws");

const socket = new WebSocket(url, { perMessageDeflate: deflate === "on", maxPayload: 0 });
const told = { extensions: null, messages: [], pong: null, code: null, reason: null };
const messages = [
  "hello", "", "Zażółć gęślą jaźń 🦜", Buffer.from([0, 1, 2, 255]), Buffer.alloc(0),
  Buffer.alloc(1 << 20, 7), "x".repeat(1 << 20),
];

socket.on("open", () => {
  told.extensions = socket.extensions;
  socket.ping("are you there");
  for (const message of messages) socket.send(message);
  socket.send("in ", { fin: false });
  socket.send("two", { fin: true });
});
const isSame = (data, message, binary) =>
  binary === Buffer.isBuffer(message) && Buffer.compare(data, Buffer.from(message)) === 0;
socket.on("pong", (data) => { told.pong = data.toString(); });
socket.on("message", (data, binary) => {
  const n = told.messages.length;
  if (n < messages.length) told.messages.push(isSame(data, messages[n], binary));
  else told.messages.push(data.toString());
  if (told.messages.length === messages.length + 1) socket.close(4321, "done");
});
socket.on("close", (code, reason) => {
  told.code = code;
  told.reason = reason.toString();
  console.log(JSON.stringify(told));
});
socket.on("error", (error) => { console.error(String(error)); process.exitCode = 1; });
