// A wsraw worker in JavaScript. `npm install` here, then:
//
//     wsraw run --workers 'node examples/workers/javascript/worker.mjs:2'
//
// The class speaks the protocol (docs/worker-protocol.md) and may be imported; the handlers are at
// the end. Handlers may be async: events of one connection wait for each other, those of others run.
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { decode, encode } from '@msgpack/msgpack'
import { Dealer } from 'zeromq'

const CONCURRENCY = 100
const SEND_AFTER = 1 // ms: an ack that waits behind a slow handler makes us look stuck (rule 3)
const LEAVE_WITHIN = 5000 // ms that the gateway has to drain us after a SIGTERM

/** A connection as handlers see it; what they command goes out with the ack of their event. */
class Connection {
  inf = {}
  about = {}
  state // Any MessagePack value. It moves along with the connection.
  constructor(id, worker) { Object.assign(this, { id, worker }) }
  send(data, type = 'text', final = true) { this.worker.command('send', this.id, data, type, final) }
  close(code = 1000, reason = '') { this.worker.command('close', this.id, code, reason) }
}

export class Worker {
  #connections = new Map()
  #busy = new Map() // The last handler of a connection that has not returned yet.
  #session = 0
  #out = [] // Records for the next batch, and since when they wait.
  #since = 0
  #sending = false
  #box = null // Of the event whose handler runs just now.
  #leaving = false

  constructor(handlers, env = process.env) {
    this.handlers = handlers
    this.env = { ...env }
    delete env.WSRAW_TOKEN // Not for what a handler may start.
  }

  async run() {
    const { WSRAW_ENDPOINT: endpoint, WSRAW_INSTANCE: instance } = this.env
    const overTcp = endpoint.startsWith('tcp://')
    this.instance = instance ?? randomBytes(8).toString('hex')
    this.socket = new Dealer({
      immediate: true, probeRouter: true, linger: 2000, maxMessageSize: 64 << 20,
      receiveHighWaterMark: 100, sendHighWaterMark: 100, reconnectInterval: 100,
      ...(overTcp && { ipv6: true, heartbeatInterval: 2000, heartbeatTimeout: 6000 }),
    })
    this.socket.connect(endpoint)
    process.on('SIGINT', () => this.#leave()).on('SIGTERM', () => {
      // The supervisor is gone, most likely: then the gateway drains us when clients were told.
      setTimeout(() => this.#leave(), this.#session ? LEAVE_WITHIN : 0)
    })
    for await (const [message] of this.socket) {
      if (message.length) await this.#receive(decode(message)) // An empty one is a probe.
      if (this.#leaving) break
    }
  }

  async #receive([number, ...records]) {
    for (const [tag, ...fields] of records) {
      if (tag === 'who') {
        // A gateway that does not know us: what we had with another one is over (rule 2).
        Object.assign(this, { ids: [] })
        this.#session = 0
        this.#busy.clear()
        const held = [...this.#connections.keys()]
        const { WSRAW_POOL: pool = 'default', WSRAW_TOKEN: token = '' } = this.env
        const hello = [1, pool, this.instance, `node/${process.versions.node}`, token]
        this.#out = []
        await this.socket.send(encode([0, ['hello', ...hello, 1000, CONCURRENCY, held]]))
      } else if (tag === 'welcome') {
        [, this.#session, , ...this.ids] = fields
      } else if (tag === 'refused') {
        console.error(`error: refused: ${fields[2]}`)
        if (!number) process.exit(4)
      } else if (number !== this.#session) {
        continue
      } else if (tag === 'attach') {
        const con = this.#get(fields[0])
        con.state = fields[2].length ? decode(fields[2]) : undefined
        Object.assign(con, fields[1] && { inf: fields[1] }, fields[4] && { about: fields[4] })
      } else if (tag === 'detach') {
        this.#connections.delete(fields[0])
      } else if (tag === 'drain') {
        Promise.all(this.#busy.values()).then(() => this.#leave())
      } else if (tag.startsWith('on_')) {
        const [, id] = fields
        const before = this.#busy.get(id)
        const work = before ? before.then(() => this.#handle(tag, fields)) : this.#handle(tag, fields)
        if (work) this.#busy.set(id, work)
        work?.finally(() => this.#busy.get(id) === work && this.#busy.delete(id))
      }
    }
    await this.#flush()
  }

  /** One event. Returns a promise if its handler does. */
  #handle(tag, [seq, id, ...fields]) {
    const [session, con, box] = [this.#session, this.#get(id), []]
    const kept = con.state
    if (this.#out.length && performance.now() - this.#since > SEND_AFTER) this.#flush()
    if (tag === 'on_connect') Object.assign(con, { inf: fields[0], about: fields[3] ?? {} })
    if (tag === 'on_close') Object.assign(con, { code: fields[0], reason: fields[1], cause: fields[2] })
    const done = (error) => {
      if (session !== this.#session) return // Whoever has the event now says what becomes of it.
      if (error) {
        console.error(`error: ${tag} raised`, error)
        con.state = kept
        box.splice(0, Infinity, fields[1] === true && tag === 'on_connect' // a verdict is asked for
          ? ['reject', id, 500] : ['close', id, 1011, ''])
      } else if (con.state !== kept) box.push(['state', id, encode(con.state)])
      if (tag === 'on_close') this.#connections.delete(id)
      this.#push(...box, ['ack', seq, seq]) // Commands travel with their ack (rule 1).
    }
    try {
      this.#box = box
      const result = this.handlers[tag]?.(con, ...fields)
      if (result instanceof Promise) return result.then(() => done(), done).then(() => this.#flush())
      done()
    } catch (error) { done(error) } finally { this.#box = null }
  }
}
